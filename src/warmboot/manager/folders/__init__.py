"""Folders of the host in engines and containers."""
