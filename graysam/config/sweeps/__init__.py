"""Sweeps: one job after another, each in a run directory of its own."""
