"""What every room may use: files written whole, folders, extras, progress, versions."""
