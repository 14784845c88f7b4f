"""Hypervisors behind one interface (``base``); drivers differ by declared capabilities only."""
