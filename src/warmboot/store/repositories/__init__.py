"""What is kept of each noun: one module, one or two tables."""
