"""Tokens of workers: derived from the worker's id, and valid for that worker only.

    wbw.<worker id, hex>.<HMAC-SHA256 of it under this installation's secret>

So none has to be kept, and one is checked without asking the database. It lets a worker call its
own routes only (see ``api.access``).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from uuid import UUID

from warmboot.store import Store

PREFIX = "wbw"
_SECRET_KEY = "worker-token-secret"


class WorkerTokens:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    async def of(cls, store: Store) -> WorkerTokens:
        """Those of this installation; its secret is made up the first time."""
        return cls(bytes.fromhex(await store.meta.set_default(_SECRET_KEY, secrets.token_hex(32))))

    def issue(self, worker_id: UUID) -> str:
        proof = hmac.new(self._secret, worker_id.bytes, hashlib.sha256).hexdigest()
        return f"{PREFIX}.{worker_id.hex}.{proof}"

    def owner(self, token: str) -> UUID | None:
        """Whose token this is; ``None`` when it is none."""
        prefix, _, rest = token.partition(".")
        identifier, _, _ = rest.partition(".")
        if prefix != PREFIX or len(identifier) != 32:
            return None
        try:
            worker_id = UUID(hex=identifier)
        except ValueError:
            return None
        given = token.encode("utf-8", "surrogateescape")
        return worker_id if hmac.compare_digest(given, self.issue(worker_id).encode()) else None
