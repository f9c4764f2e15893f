"""What paper, code and metric claim, recomputed; answers to changed prompts."""
