"""Folders of this machine in a guest: a process for each VM that has some serves them to it."""
