"""graysam: box-prompted medical image segmentation, trained in PyTorch and run on a laptop's CPU."""
