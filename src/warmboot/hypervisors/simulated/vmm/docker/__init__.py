"""The simulated Docker Engine API: images, containers, execs, events."""
