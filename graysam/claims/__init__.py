"""What the paper, its code and the official metric claim or leave unsaid, computed anew."""
