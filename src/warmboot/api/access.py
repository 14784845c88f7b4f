"""Who may talk to the API.

With tokens configured, every request but a health probe carries ``Authorization: Bearer <token>``.
Without tokens everything is open, but then only to this machine: the server refuses to bind
anything but loopback, and requests whose ``Host`` or ``Origin`` is not this server are refused, so
that a web page in a local browser cannot reach it by DNS rebinding or a cross-site form.

A worker shows its own token, which is good for its own routes only: to look at itself, to report,
to ask for its pause and for checkpoints.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmboot.api.problems import Forbidden, ForeignOrigin, MalformedRequest, problem_of
from warmboot.model.errors import InvalidRequest, Unauthorized, WarmbootError

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
ANYONE = "anyone"
_OF_WORKERS = {
    "GET": re.compile(r"(/wait|/logs|/checkpoints(/[^/]+)?)?"),
    "POST": re.compile(r"/events|/pause|/checkpoints"),
}

WorkerOf = Callable[[str], UUID | None]
"""Whose token this is, if it is a worker's."""


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, IPv6 with or without brackets) is this machine."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, tokens: Iterable[str]) -> None:
    """Refuse to listen where others could come in without a token.

    Raises ``InvalidRequest`` for an address that is not loopback when no token is configured.
    """
    if is_loopback(host) or any(tokens):
        return
    raise InvalidRequest(
        f"refusing to listen on {host or 'all addresses'} without tokens",
        details="anyone who reaches this address could start containers",
        resolution="configure a token, or listen on 127.0.0.1",
    )


class Doors:
    """Authentication, and the refusal of foreign hosts and origins. Pure ASGI, WebSockets too.

    Leaves the caller's name in ``scope["state"]["caller"]``: a token's fingerprint, or ``anyone``;
    and in ``scope["state"]["worker"]`` the id of the worker that calls, if one does.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: frozenset[str], worker_of: WorkerOf | None = None
    ) -> None:
        self.app = app
        self._worker_of = worker_of
        self._known = tuple(_digest(token) for token in tokens if token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            caller = self._caller(scope)
        except WarmbootError as error:
            await refuse(error, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["caller"] = caller
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if not self._known:
            _check_local(headers)
        worker = self._worker(headers)
        if worker is not None:
            _check_own(worker, scope)
            scope.setdefault("state", {})["worker"] = worker
            return f"worker {worker}"
        if not self._known:
            return ANYONE
        if scope["type"] == "http" and scope["path"] in OPEN_PATHS:
            return ANYONE
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = _digest(token.strip())
        # Every known token is compared, whichever matches, in constant time each.
        matches = [hmac.compare_digest(given, known) for known in self._known]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized(
                "no valid token",
                details="this server wants Authorization: Bearer <token>",
                resolution="set WARMBOOT_TOKEN to one of the server's tokens",
            )
        return given.hex()[:32]

    def _worker(self, headers: Headers) -> UUID | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if self._worker_of is None or scheme.lower() != "bearer":
            return None
        return self._worker_of(token.strip())


def worker_caller(scope: Scope) -> UUID | None:
    """The worker that makes this request, if it is one."""
    found: UUID | None = scope.get("state", {}).get("worker")
    return found


def _check_own(worker: UUID, scope: Scope) -> None:
    own, path = f"/v1/workers/{worker}", str(scope["path"])
    allowed = _OF_WORKERS.get(scope.get("method", ""))
    if path in OPEN_PATHS:
        return
    if not path.startswith(own) or allowed is None or not allowed.fullmatch(path[len(own) :]):
        raise Forbidden(
            "a worker's token is not for this",
            details=f"it is good for looking at itself, and for POST {own}/events, /pause and "
            "/checkpoints",
            resolution="use one of the manager's own tokens",
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _check_local(headers: Headers) -> None:
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        raise MalformedRequest("exactly one Host header is needed")
    try:
        name = urlsplit(f"//{hosts[0]}").hostname or ""
    except ValueError as error:
        raise MalformedRequest("the Host header is no host") from error
    if not is_loopback(name):
        raise ForeignOrigin(
            "this Host is not served here",
            details="without tokens only loopback names are answered (127.0.0.1, localhost, [::1])",
            resolution="use http://127.0.0.1, or configure tokens",
        )
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != hosts[0]:
        raise ForeignOrigin(
            "requests from other web sites are refused",
            details="the Origin header is not this server's own address",
            resolution="call from the server's own page or a program, or configure tokens",
        )


async def refuse(error: WarmbootError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem; a WebSocket is denied before it is accepted."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.brief[:120]})
        return
    await problem_of(error)(scope, receive, send)
