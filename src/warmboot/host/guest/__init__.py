"""The host's side of a guest: its agent and the Docker in it."""
