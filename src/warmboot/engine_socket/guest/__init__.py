"""The connections to a guest's Docker, and the answers that come there."""
