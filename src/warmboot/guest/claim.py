"""Whether this VM belongs to somebody, and the token that proves it.

    unclaimed ──identity──▶ claimed ──prepare-snapshot──▶ unclaimed

The token is also kept in a file (on tmpfs, mode 0600), so that an agent that died and was started
again does not offer the VM to whoever asks first.
"""

from __future__ import annotations

import os
import threading
from _operator import _compare_digest
from pathlib import Path

from .wire import Head, HttpError


class Claim:
    def __init__(self, token_file: Path) -> None:
        self._file = token_file
        self.lock = threading.Lock()
        """Held while an identity is applied: of two at once, one is the first."""
        try:
            self._token: str | None = token_file.read_text() or None
        except FileNotFoundError:
            self._token = None

    @property
    def claimed(self) -> bool:
        return self._token is not None

    def claim(self, token: str) -> None:
        descriptor = os.open(
            self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, token.encode())
        finally:
            os.close(descriptor)
        self._token = token

    def release(self) -> None:
        self._file.unlink(missing_ok=True)
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
