"""Guest memory in files, compressed or as what differs from a base, and the server of its pages."""
