"""The storage root: runtime images, what lies there, and whose it is."""
