"""Users of this host who have a default engine."""
