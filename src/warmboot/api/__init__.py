"""The REST API: routes, problem responses, authentication, idempotency."""

from warmboot.api.app import create_app
from warmboot.api.middleware.auth import check_bind

__all__ = ["check_bind", "create_app"]
