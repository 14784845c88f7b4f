"""What can be asked of one container, beside what it does."""
