"""Losses, the LightningModule and the callbacks around it."""
