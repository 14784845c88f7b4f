"""Prerequisites of checkpoints on a machine: checked, explained and installed."""
