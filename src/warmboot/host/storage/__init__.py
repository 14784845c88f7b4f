"""The storage root: runtime images, its contents, and the database that it belongs to."""
