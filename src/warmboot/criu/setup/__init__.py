"""What a machine needs for checkpoints: looked at, explained, and mended."""
