"""The one part below the entry points that knows Hydra: everything else receives plain values."""
