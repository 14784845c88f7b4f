"""Repositories of what has a state of its own, and a name."""
