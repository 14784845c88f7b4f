"""What the manager writes down of its own doing: events, sagas' steps, idempotency keys."""
