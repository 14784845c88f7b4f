"""Garbage collection: what is no longer needed is removed, and what is cold takes less room."""
