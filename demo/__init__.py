"""What ``make demo`` shows: warm boots, engines and workers, for real, on this machine."""
