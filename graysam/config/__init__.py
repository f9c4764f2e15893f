"""Compose, validate and sweep configs with Hydra; no other room imports Hydra or OmegaConf."""
