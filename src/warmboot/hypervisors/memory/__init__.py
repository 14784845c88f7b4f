"""Guest memory that is stored compressed: its format, and the server that hands out its pages."""
