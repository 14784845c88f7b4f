"""What sleeps is woken by who wants something of it."""
