"""What client and service agree on: names, signals, stream framing, the socket."""
