"""``warmboot engine``."""
