"""Repositories of what has a VM of its own: containers and engines."""
