"""``Idempotency-Key`` on every POST: the first answer is kept and given again.

    same key, same request  ─▶ the kept answer, with Idempotent-Replayed: true
    same key, other request ─▶ 422
    … while the first runs  ─▶ 409
    answers from 500 up, and requests that were cut off, are not kept: the key is free again

A key counts per caller, method and path. Uploads are too big to be looked at first: their key is
claimed when the whole body has passed and its sum is known. That is sound because an upload's id
is its content: doing it twice does nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmboot.api.body import Disconnected, is_streamed, read_body, replay
from warmboot.api.problems import problem_of
from warmboot.model.errors import Conflict, InvalidRequest, WarmbootError
from warmboot.model.idempotency import Claim, Done, Mismatch, Running

KEY_HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("content-type", "location")
MAX_KEPT_BYTES = 256 * 1024


class Repository(Protocol):
    """What keeps the answers, for 24 h. Each method is one transaction."""

    async def claim(self, scope: str, key: str, request_hash: str) -> Claim: ...

    async def complete(
        self, scope: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes
    ) -> None: ...

    async def abandon(self, scope: str, key: str) -> None: ...


class KeyReused(InvalidRequest):
    code = "idempotency-key-reused"


class StillRunning(Conflict):
    code = "request-still-running"
    retry_after_s = 1


class Idempotency:
    """Pure ASGI: looks at the whole body of a POST with a key, and at its whole answer."""

    def __init__(self, app: ASGIApp, *, repository: Repository) -> None:
        self.app = app
        self._kept = repository

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        keys = Headers(scope=scope).getlist(KEY_HEADER)
        if not keys:
            await self.app(scope, receive, send)
            return
        try:
            key = _checked(keys)
            if is_streamed(scope["path"]):
                await self._after(key, scope, receive, send)
            else:
                await self._before(key, scope, receive, send)
        except WarmbootError as error:
            await problem_of(error)(scope, receive, send)
        except Disconnected:
            return

    async def _before(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Claim the key, then run the request, then keep the answer."""
        body = await read_body(receive)
        place = _scope_of(scope)
        fingerprint = hashlib.sha256(scope.get("query_string", b"") + b"\n" + body).hexdigest()
        if await self._answered(place, key, fingerprint, send):
            return
        answer = _Answer()
        try:
            await self.app(scope, replay(body, receive), answer.take)
        except BaseException:  # cancelled, too; raised again
            await asyncio.shield(self._kept.abandon(place, key))
            raise
        await asyncio.shield(self._keep(place, key, answer))
        await answer.give(send)

    async def _after(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the upload, summing its body; then claim the key and keep the answer."""
        seen = hashlib.sha256(scope.get("query_string", b"") + b"\n")

        async def watch() -> Message:
            message = await receive()
            seen.update(message.get("body", b""))
            return message

        place, answer = _scope_of(scope), _Answer()
        await self.app(scope, watch, answer.take)
        if answer.status < 400:
            if await self._answered(place, key, seen.hexdigest(), send):
                return
            await asyncio.shield(self._keep(place, key, answer))
        await answer.give(send)

    async def _answered(self, place: str, key: str, fingerprint: str, send: Send) -> bool:
        """Claim ``key``; whether its kept answer was given. Raises for a reused or running one."""
        outcome = await self._kept.claim(place, key, fingerprint)
        if isinstance(outcome, Done):
            await _give_kept(outcome, send)
            return True
        if isinstance(outcome, Mismatch):
            raise KeyReused(
                "this Idempotency-Key was used for another request",
                details="the body or the query differs from the first one's",
                resolution="use a new key for a new request",
            )
        if isinstance(outcome, Running):
            raise StillRunning(
                "the first request with this Idempotency-Key is still running",
                resolution="ask again in a moment, with the same key",
            )
        return False

    async def _keep(self, place: str, key: str, answer: _Answer) -> None:
        if answer.status >= 500 or len(answer.body) > MAX_KEPT_BYTES:
            await self._kept.abandon(place, key)
            return
        await self._kept.complete(
            place,
            key,
            status=answer.status,
            headers=answer.kept_headers(),
            body=bytes(answer.body),
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
