"""Folders of the host in engines."""
