"""Docker engines of one's own: created, started, stopped, removed, and served on their sockets."""
