"""The manager's own records: events, steps of sagas, idempotency keys."""
