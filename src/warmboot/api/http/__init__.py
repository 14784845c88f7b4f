"""The HTTP server: parsing, time limits, and the number of connections.

It serves listening sockets of any family alike, and knows nothing of routes but which may be
answered when no more connections are taken.
"""
