"""Checkpoint and restore with CRIU: ``checkpoint`` and ``restore`` are what a use case calls."""
