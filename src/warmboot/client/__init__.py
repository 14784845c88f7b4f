"""The Python client of warmboot's API."""

from warmboot.client.client import DEFAULT_URL, Client
from warmboot.client.problems import ManagerUnreachable
from warmboot.client.sessions import Session

__all__ = ["DEFAULT_URL", "Client", "ManagerUnreachable", "Session"]
