"""``Idempotency-Key`` on every POST: the first answer is kept and given again.

    same key, same request  ─▶ the kept answer, with Idempotent-Replayed: true
    same key, other request ─▶ 422
    … while the first runs  ─▶ 409
    answers from 500 up, and requests that were cut off, are not kept: the key is free again

A key counts per caller, method and path; of a worker's only the newest are kept, as it may make as
many as it likes. Uploads are too big to be looked at first: their key is
reserved when the whole body has passed and its sum is known. That is sound because an upload's id
is its content: doing it twice does nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmboot.api.middleware.auth import worker_caller
from warmboot.api.middleware.body import Disconnected, is_streamed, limit_bytes, read_body, replay
from warmboot.api.problems import problem_of
from warmboot.model.errors import Conflict, InvalidRequest, WarmbootError
from warmboot.model.journal.idempotency import Done, Mismatch, Reservation, Running
from warmboot.system.concurrency import finish

log = logging.getLogger(__name__)

KEY_HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("content-type", "location")
MAX_KEPT_BYTES = 256 * 1024
KEPT_OF_A_WORKER = 500
"""Answers to one route that a worker has asked for: how many there are is up to it."""
_TRIM_EVERY = 50
MAX_UNSTORED = 100
"""So many answers that could not be stored are kept in memory; older keys are free again."""

_Name = tuple[str, str]
"""A scope (who, method, path) and a key in it."""


class Repository(Protocol):
    """What keeps the answers, for 24 h. Each method is one transaction."""

    async def reserve(self, scope: str, key: str, request_hash: str) -> Reservation: ...

    async def complete(
        self, scope: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes
    ) -> None: ...

    async def abandon(self, scope: str, key: str) -> None: ...

    async def trim(self, scope: str, keep: int) -> int: ...


class KeyReused(InvalidRequest):
    code = "idempotency-key-reused"


class StillRunning(Conflict):
    code = "request-still-running"
    retry_after_s = 1


class IdempotencyMiddleware:
    """Pure ASGI: looks at the whole body of a POST with a key, and at its whole answer.

    What runs is known here, not in the database, whose only user this process is: a row that says
    running, of which nothing is known here, was left by a failure and is freed. An answer that
    cannot be stored is given all the same, and kept in memory until it can be.
    """

    def __init__(self, app: ASGIApp, *, repository: Repository) -> None:
        self.app = app
        self._kept = repository
        self._running: dict[_Name, str] = {}
        self._unstored: dict[_Name, _Unstored] = {}
        self._of_workers: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        keys = Headers(scope=scope).getlist(KEY_HEADER)
        if not keys:
            await self.app(scope, receive, send)
            return
        try:
            name = (_scope_of(scope), _checked(keys))
            if worker_caller(scope) is not None:
                await self._bound(name[0])
            if is_streamed(scope["path"]):
                await self._after(name, scope, receive, send)
            else:
                await self._before(name, scope, receive, send)
        except WarmbootError as error:
            await problem_of(error)(scope, receive, send)
        except Disconnected:
            return

    async def _bound(self, scope: str) -> None:
        """Now and then all but the newest answers that were kept for a worker are forgotten."""
        self._of_workers[scope] += 1
        if self._of_workers[scope] >= _TRIM_EVERY:
            del self._of_workers[scope]
            await self._kept.trim(scope, KEPT_OF_A_WORKER)

    async def _before(self, name: _Name, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve the key, then run the request, then keep the answer."""
        body = await read_body(receive, limit_bytes(scope["path"]))
        fingerprint = hashlib.sha256(scope.get("query_string", b"") + b"\n" + body).hexdigest()
        known = await self._reserve(name, fingerprint)
        if known is not None:
            await _give_kept(known, send)
            return
        answer = _Answer()
        try:
            await self.app(scope, replay(body, receive), answer.take)
        except BaseException:  # cancelled, too; raised again
            await finish(self._keep(name, fingerprint, None))
            raise
        await finish(self._keep(name, fingerprint, answer))
        await answer.give(send)

    async def _after(self, name: _Name, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the upload, summing its body; then reserve the key and keep the answer."""
        seen = hashlib.sha256(scope.get("query_string", b"") + b"\n")

        async def watch() -> Message:
            message = await receive()
            seen.update(message.get("body", b""))
            return message

        answer = _Answer()
        await self.app(scope, watch, answer.take)
        if answer.status < 400:
            fingerprint = seen.hexdigest()
            try:
                known = await self._reserve(name, fingerprint)
            except (KeyReused, StillRunning):
                raise
            except WarmbootError as error:  # it is uploaded: that is what is told
                log.warning("an Idempotency-Key could not be kept: %s", error.brief)
                await answer.give(send)
                return
            if known is not None:
                await _give_kept(known, send)
                return
            await finish(self._keep(name, fingerprint, answer))
        await answer.give(send)

    async def _reserve(self, name: _Name, fingerprint: str) -> Done | None:
        """Hold ``name`` until ``_keep``, or its kept answer. Raises for a reused or running one."""
        if name in self._running:
            if self._running[name] != fingerprint:
                raise _reused()
            raise StillRunning(
                "the first request with this Idempotency-Key is still running",
                resolution="ask again in a moment, with the same key",
            )
        self._running[name] = fingerprint
        held = False
        try:
            unstored = self._unstored.get(name)
            if unstored is not None:
                if unstored.fingerprint != fingerprint:
                    raise _reused()
                await self._store(name, unstored)
                return unstored.answer
            while True:
                outcome = await self._kept.reserve(*name, fingerprint)
                if not isinstance(outcome, Running):
                    break
                await self._kept.abandon(*name)
            if isinstance(outcome, Mismatch):
                raise _reused()
            held = not isinstance(outcome, Done)
            return outcome if isinstance(outcome, Done) else None
        finally:
            if not held:
                del self._running[name]

    async def _keep(self, name: _Name, fingerprint: str, answer: _Answer | None) -> None:
        """Store the answer, or free the key; then ``name`` is held no more. Raises nothing."""
        try:
            if answer is None or answer.status >= 500 or len(answer.body) > MAX_KEPT_BYTES:
                await self._free(name)
                return
            done = Done(answer.status, answer.kept_headers(), bytes(answer.body))
            await self._store(name, _Unstored(fingerprint, done))
        finally:
            del self._running[name]

    async def _free(self, name: _Name) -> None:
        try:
            await self._kept.abandon(*name)
        except Exception as error:  # noqa: BLE001 - the next request with this key frees it
            log.warning("an Idempotency-Key could not be freed yet: %r", error)

    async def _store(self, name: _Name, unstored: _Unstored) -> None:
        done = unstored.answer
        try:
            await self._kept.complete(
                *name, status=done.status, headers=done.headers, body=done.body
            )
            self._unstored.pop(name, None)
        except Exception as error:  # noqa: BLE001 - the work is done; its answer must be given
            log.warning("an answer could not be stored under its Idempotency-Key: %r", error)
            self._unstored[name] = unstored
            while len(self._unstored) > MAX_UNSTORED:
                self._unstored.pop(next(iter(self._unstored)))


@dataclass(frozen=True, slots=True)
class _Unstored:
    fingerprint: str
    answer: Done


def _reused() -> KeyReused:
    return KeyReused(
        "this Idempotency-Key was used for another request",
        details="the body or the query differs from the first one's",
        resolution="use a new key for a new request",
    )


class _Answer:
    """A response held back until it is kept."""

    def __init__(self) -> None:
        self.status = 500
        self.body = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def kept_headers(self) -> dict[str, str]:
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._headers}
        return {name: named[name] for name in _KEPT_HEADERS if name in named}

    async def give(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self._headers})
        await send({"type": "http.response.body", "body": bytes(self.body)})


async def _give_kept(kept: Done, send: Send) -> None:
    headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.headers.items()
    ]
    headers.append((b"content-length", str(len(kept.body)).encode()))
    headers.append((REPLAYED_HEADER.encode(), b"true"))
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": kept.body})


def _checked(keys: list[str]) -> str:
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidRequest(
            "this Idempotency-Key cannot be used",
            details="it takes one key of 1 to 255 visible ASCII characters",
            resolution="use a random UUID, for example",
        )
    return keys[0]


def _scope_of(scope: Scope) -> str:
    caller = scope.get("state", {}).get("caller", "")
    return f"{caller} {scope['method']} {scope['path']}"
