"""This machine's own terms: programs, priorities, files, disks, sums, what the kernel counts."""
