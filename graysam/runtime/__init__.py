"""Segmentation of whole cases, and what carries a trained model to a laptop."""
