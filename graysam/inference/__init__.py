"""Segmentation without torch: predictor, propagation through slices, exported models, OpenVINO."""
