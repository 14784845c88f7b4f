"""warmboot: containers in microVMs that start warm, workers that pause and resume."""

__version__ = "0.1.0"
