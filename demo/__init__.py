"""What ``make demo`` shows: warmboot's two halves, for real, on this machine."""
