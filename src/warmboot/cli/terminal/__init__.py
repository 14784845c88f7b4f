"""What is shown on a terminal and read from it."""
