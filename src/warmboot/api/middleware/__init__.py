"""What every request passes: who asks, its body, its idempotency key, its metrics."""
