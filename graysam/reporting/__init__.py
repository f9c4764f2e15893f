"""What run directories hold, as tables; needs neither torch nor Hydra."""
