"""Access to the machine: programs, priorities, files, disks, checksums, kernel counters."""
