"""Reproducibility checks of the paper, its released code and the metric; probes of a model with changed boxes."""
