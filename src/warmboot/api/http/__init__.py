"""HTTP at the door: what may come in over a connection, for how long, and how many of them.

It serves listening sockets of any family alike, and knows nothing of routes but which may be
answered when no more connections are taken.
"""
