"""One request and its response, between the protocol and the application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmboot.api.http.connections import Held
from warmboot.api.http.limits import HttpLimits
from warmboot.api.problems import problem, problem_of
from warmboot.model.errors import Unavailable, WarmbootError


class TooManyConnections(Unavailable):
    code = "too-many-connections"
    retry_after_s = 1


def too_many_connections() -> TooManyConnections:
    return TooManyConnections(
        "all connections are in use",
        resolution="close some (followed logs, exec sessions), or raise MANAGER_MAX_CONNECTIONS",
    )


class Exchange:
    """Runs the application for one request.

    An answer that leaves before its request's body has come (a refusal, mostly) ends the
    connection, or the rest of the body would have to be read for as long as the client likes. What
    comes within a moment is read all the same: a socket that is closed over unread data resets,
    and the answer could be lost with it.
    """

    def __init__(
        self,
        app: ASGIApp,
        held: Held,
        limits: HttpLimits,
        body_is_complete: Callable[[], bool],
        always_open: frozenset[str],
    ) -> None:
        self._app = app
        self._held = held
        self._limits = limits
        self._body_is_complete = body_is_complete
        self._always_open = always_open
        self._early = False
        self._drains = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        expects = Headers(scope=scope).get("expect", "").lower() == "100-continue"
        asked = False

        async def take() -> Message:
            nonlocal asked
            asked = True
            return await receive()

        async def give(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._early = not self._body_is_complete()
                self._drains = asked or not expects
                message = self._headed(message)
            elif self._early and not message.get("more_body", False):
                await send({**message, "more_body": True})
                if self._drains:
                    await self._drain(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        if self._held.surplus and scope["path"] not in self._always_open:
            await problem_of(too_many_connections())(scope, take, give)
            return
        await self._app(scope, take, give)

    def _headed(self, start: Message) -> Message:
        headers = list(start.get("headers", ()))
        self._held.endless = all(name.lower() != b"content-length" for name, _ in headers)
        if self._early or self._held.surplus:
            headers = [field for field in headers if field[0].lower() != b"connection"]
            headers.append((b"connection", b"close"))
        return {**start, "headers": headers}

    async def _drain(self, receive: Receive) -> None:
        left = self._limits.drain_bytes
        self._held.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_s):
                while left > 0:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))


def raw_refusal(status: HTTPStatus, error: WarmbootError, code: str) -> bytes:
    """A whole answer as bytes, for a connection that ends with it."""
    answer = problem(status, code, error.brief, detail=error.details, resolution=error.resolution)
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + bytes(answer.body)
