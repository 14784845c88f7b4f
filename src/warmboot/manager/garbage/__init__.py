"""Garbage collection: choosing and removing what is no longer needed."""
