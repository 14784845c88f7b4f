"""What happens to a worker without being asked: by its own policy, and by its engine's."""
