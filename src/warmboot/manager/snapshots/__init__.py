"""Runtime snapshots: built, checked, compressed, rebuilt."""
