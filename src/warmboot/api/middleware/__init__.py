"""The middleware of every request: authentication, body, idempotency key, metrics."""
