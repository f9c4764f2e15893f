"""Image preparation shared by training and the laptop runtime; NumPy and OpenCV only."""
