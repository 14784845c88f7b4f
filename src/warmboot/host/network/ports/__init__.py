"""Ports of the host that lead to guests, and connections that end with their VM."""
