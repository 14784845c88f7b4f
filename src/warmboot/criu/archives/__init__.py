"""Checkpoint archives: export from an engine, and import into another one."""
