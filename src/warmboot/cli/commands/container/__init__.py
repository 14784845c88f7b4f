"""Commands of containers that have options of Docker's."""
