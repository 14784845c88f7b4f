"""The REST API: routes a noun, problems, authentication, idempotency."""

from warmboot.api.access import check_bind
from warmboot.api.app import create_app

__all__ = ["check_bind", "create_app"]
