"""A VM on this machine: its files, its VMM, its console, what a killed manager has left of it."""
