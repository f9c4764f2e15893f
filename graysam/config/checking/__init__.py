"""Checking configs as a whole, before anything is built or run."""
