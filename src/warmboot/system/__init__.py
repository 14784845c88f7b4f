"""This machine's own terms: programs, files, priorities, and what the kernel says of their use."""
