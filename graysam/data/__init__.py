"""Case files, packing, shards, sampling and the LightningDataModule."""
