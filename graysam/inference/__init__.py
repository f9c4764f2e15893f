"""Segmentation without torch: predictor, walk through slices, exported models, OpenVINO."""
