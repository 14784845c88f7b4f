"""Commands for snapshots, and for the images that are in some."""
