"""How containers are parked."""
