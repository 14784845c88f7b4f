"""Whether this VM belongs to somebody, and the token that proves it.

    unclaimed ──identity──▶ claimed ──prepare-snapshot──▶ unclaimed
                            claimed ──identity, as a fork──▶ claimed by another

Who makes a fork another's shows the token of the VM that it was frozen of.

The token is also kept in a file (on tmpfs), so that an agent that died and was started
again does not offer the VM to whoever asks first.
"""

from __future__ import annotations

import threading
from _operator import _compare_digest

from .system import System
from .wire import Head, HttpError

TOKEN_FILE = "/run/warmboot/token"


class Claim:
    def __init__(self, system: System) -> None:
        self._system = system
        self.lock = threading.Lock()
        """Held while an identity is applied: of two at once, one is the first."""
        try:
            self._token: str | None = system.read_file(TOKEN_FILE) or None
        except FileNotFoundError:
            self._token = None

    @property
    def claimed(self) -> bool:
        return self._token is not None

    def claim(self, token: str) -> None:
        self._system.write_file(TOKEN_FILE, token, 0o600)
        self._token = token

    def release(self) -> None:
        self._system.remove_file(TOKEN_FILE)
        self._token = None

    def is_token(self, token: str) -> bool:
        return self._token is not None and _compare_digest(self._token.encode(), token.encode())

    def check(self, head: Head) -> None:
        """``HttpError`` 401 unless the request carries the token. Nobody has an unclaimed VM's."""
        scheme, _, given = head.headers.get("authorization", "").partition(" ")
        token = self._token
        if token is None:
            raise HttpError(401, "this VM has no identity yet: POST /warmboot/v1/identity first")
        if scheme.lower() != "bearer" or not _compare_digest(
            given.strip().encode("latin-1"), token.encode()
        ):
            raise HttpError(401, "the token is missing or wrong")
