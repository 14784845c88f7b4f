"""Where clients connect, and who is connected."""
