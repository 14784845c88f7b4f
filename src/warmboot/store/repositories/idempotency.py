"""Idempotency keys: the first request does the work, later ones get the same response.

reserve ──▶ Reserved ──▶ complete ──▶ later requests: Done
                └─────▶ abandon  ──▶ as if it had never been reserved
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select, update

from warmboot.model.errors import NotFound
from warmboot.model.journal.idempotency import Done, Mismatch, Reservation, Reserved, Running
from warmboot.store.clock import now
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.tables import idempotency_keys

_RUNNING, _DONE = "running", "done"
_COMPLETE = update(idempotency_keys).where(
    idempotency_keys.c.scope == bindparam("scope_"),
    idempotency_keys.c.key == bindparam("key_"),
    idempotency_keys.c.state == _RUNNING,
)
ROWS: Rows[dict[str, Any]] = Rows(idempotency_keys, lambda values: values)


class IdempotencyRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        insert = database.insert(idempotency_keys).on_conflict_do_nothing()
        self._reserve = insert.returning(idempotency_keys.c.key)

    async def reserve(self, scope: str, key: str, request_hash: str) -> Reservation:
        values = {
            "scope": scope,
            "key": key,
            "request_hash": request_hash,
            "state": _RUNNING,
            "created_at": now(),
        }
        query = select(*ROWS.columns).where(
            idempotency_keys.c.scope == scope, idempotency_keys.c.key == key
        )
        async with self._database.write(alone=True) as connection:
            while True:
                if (await connection.execute(self._reserve, values)).first() is not None:
                    return Reserved()
                row = (await connection.execute(query)).first()
                if row is not None:
                    break
                # It was abandoned in between: reserve it after all.
        kept = ROWS.one(row)
        if kept["state"] == _RUNNING:
            return Running()
        if kept["request_hash"] != request_hash:
            return Mismatch()
        return Done(status=kept["status"], headers=kept["headers"], body=kept["body"])

    async def complete(
        self, scope: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Keep the answer. ``NotFound`` if the key is not reserved."""
        answer = {"status": status, "headers": headers, "body": body}
        values = {"scope_": scope, "key_": key, "state": _DONE, **answer}
        async with self._database.write(alone=True) as connection:
            if not (await connection.execute(_COMPLETE, values)).rowcount:
                raise NotFound("no request is running under this idempotency key")

    async def abandon(self, scope: str, key: str) -> None:
        """The work came to nothing that should be repeated: free the key. Idempotent."""
        statement = delete(idempotency_keys).where(
            idempotency_keys.c.scope == scope,
            idempotency_keys.c.key == key,
            idempotency_keys.c.state == _RUNNING,
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def abandon_all(self) -> int:
        """Free every key that is still running: for the start after a crash. How many."""
        statement = delete(idempotency_keys).where(idempotency_keys.c.state == _RUNNING)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount

    async def purge(self, older_than: datetime) -> int:
        """Forget the answers to requests made before ``older_than``; how many."""
        statement = delete(idempotency_keys).where(
            idempotency_keys.c.state == _DONE, idempotency_keys.c.created_at < older_than
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount

    async def trim(self, scope: str, keep: int) -> int:
        """Forget all but the newest ``keep`` answers of a scope; how many."""
        own = (idempotency_keys.c.scope == scope) & (idempotency_keys.c.state == _DONE)
        newest_first = (idempotency_keys.c.created_at.desc(), idempotency_keys.c.key)
        surplus = select(idempotency_keys.c.key).where(own).order_by(*newest_first).offset(keep)
        statement = delete(idempotency_keys).where(own, idempotency_keys.c.key.in_(surplus))
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount
