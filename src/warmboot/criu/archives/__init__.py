"""A checkpoint as one file: written, read, and put into another engine."""
