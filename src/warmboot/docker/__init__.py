"""The client of a Docker engine, and the translation of its errors."""
