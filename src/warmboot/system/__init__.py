"""Access to the machine (programs, files, disks, kernel counters), and how tasks end and pause."""
