"""The kinds of numbers a trained network can run in: what a kind is, which there are, what they quantize, how fast."""
