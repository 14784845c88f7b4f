"""Authentication: which requests the API answers.

    a token is shown          it counts, and nothing else does: one of the manager's opens all, a
                              worker's its own routes (to look at itself, to report, to ask for
                              its pause and for checkpoints), any other nothing
    the Unix socket           whoever its file's mode lets in
    TCP on loopback           root (``peers``), at every request, while our own end is established:
                              only then is nobody else at the addresses that are looked up
    any other                 nobody

Open to all are the health checks, the files of the web page, and the metrics while no tokens are
configured: for a GET without a body, so that a stranger has nothing to send that would be read,
kept or waited for. Without tokens the server refuses to bind anything but loopback. Requests whose
``Host`` or ``Origin`` is not this server need a token, so that a web page in a local browser cannot
reach it by DNS rebinding or a cross-site form, nor the Unix socket where it is forwarded to a port;
so do those that a proxy passes on for somebody.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmboot.api.middleware.sock_diag import Address
from warmboot.api.problems import Forbidden, ForeignOrigin, MalformedRequest, refuse
from warmboot.model.conventions.caller import CALLER
from warmboot.model.errors import InvalidRequest, Unauthorized, WarmbootError
from warmboot.page import page_files

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
ESTABLISHED = "warmboot.established"
"""The server's extension of the scope: whether our end of the connection is established."""
METRICS = "/metrics"
ANYONE, LOCAL = "anyone", "local"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(?::[0-9]{1,5})?")
_PORT = re.compile(r":[0-9]{1,5}\Z")
_PASSED_ON = ("forwarded", "x-forwarded-for", "via")
_OF_WORKERS = {
    "GET": re.compile(r"(/wait|/logs|/checkpoints(/[^/]+)?)?"),
    "POST": re.compile(r"/events|/pause|/checkpoints"),
}

WorkerOf = Callable[[str], UUID | None]
"""Whose token this is, if it is a worker's."""


class Peers(Protocol):
    """Knows the processes at the other end of loopback connections."""

    async def why_not_root(self, client: Address, server: Address) -> str: ...


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, IPv6 with or without brackets) is this machine."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_bind(host: str, tokens: Iterable[str]) -> None:
    """Refuse to listen where others could come in without a token.

    Raises ``InvalidRequest`` for an address that is not loopback when no token is configured.
    """
    if is_loopback(host) or any(tokens):
        return
    raise InvalidRequest(
        f"refusing to listen on {host or 'all addresses'} without tokens",
        details="anyone who reaches this address could start containers",
        resolution="configure a token (MANAGER_TOKENS), or listen on 127.0.0.1",
    )


class AuthMiddleware:
    """Authentication, and the refusal of foreign hosts and origins. Pure ASGI, WebSockets too.

    Leaves the caller's name in ``scope["state"]["caller"]``: a token's fingerprint, ``local`` for
    root and those whom the socket lets in, a worker's, or ``anyone``; and in
    ``scope["state"]["worker"]`` the id of the worker that calls, if one does.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: frozenset[str],
        peers: Peers,
        worker_of: WorkerOf | None = None,
        advice: str = "",
    ) -> None:
        self.app = app
        self._worker_of = worker_of
        self._peers = peers
        self._advice = advice
        self._known = tuple(_digest(token) for token in tokens if token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            caller = await self._caller(scope)
        except WarmbootError as error:
            await refuse(error, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["caller"] = caller
        known = CALLER.set(caller)
        try:
            await self.app(scope, receive, send)
        finally:
            CALLER.reset(known)

    async def _caller(self, scope: Scope) -> str:
        headers, by_socket = Headers(scope=scope), came_by_socket(scope)
        if not self._known and not by_socket:
            check_local(headers, linked=scope["path"] in page_files() and _only_reads(scope))
        worker = self._worker(headers)
        if worker is not None:
            _check_own(worker, scope)
            scope.setdefault("state", {})["worker"] = worker
            return f"worker {worker}"
        if self._is_open(scope, headers, by_socket):
            return ANYONE
        if "authorization" in headers:
            return self._holder_of(headers["authorization"])
        if by_socket:
            check_forwarded(headers)
        else:
            await self._check_root(scope, headers)
        return LOCAL

    def _is_open(self, scope: Scope, headers: Headers, by_socket: bool) -> bool:
        if not _only_reads(scope):
            return False
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return False
        path = scope["path"]
        if path != METRICS or self._known:
            return path in OPEN_PATHS or path in page_files()
        if by_socket:
            check_forwarded(headers)  # on TCP that was done
        return True

    def _holder_of(self, authorization: str) -> str:
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        # Every known token is compared, whichever matches, in constant time each.
        matches = [hmac.compare_digest(given, known) for known in self._known]
        if scheme.lower() != "bearer" or not any(matches):
            raise self._unauthorized("the token that was shown is none of this server's")
        return given.hex()[:32]

    async def _check_root(self, scope: Scope, headers: Headers) -> None:
        """Raises ``Unauthorized`` unless root itself is at the other end, on this machine."""
        client, server = scope.get("client"), scope.get("server")
        if not (client and server and server[1]) or not (
            is_loopback(client[0]) and is_loopback(server[0])
        ):
            raise self._unauthorized("this connection does not come from this machine's loopback")
        if any(name in headers for name in _PASSED_ON):
            raise self._unauthorized("a proxy has passed this request on")
        try:
            check_local(headers)
        except WarmbootError as error:
            raise self._unauthorized(error.brief) from error
        reason = await self._peers.why_not_root(tuple(client), tuple(server))
        established = scope.get("extensions", {}).get(ESTABLISHED)
        if not reason and established is not None and not established():
            reason = "the connection is closed"  # somebody else may have its addresses by now
        if reason:
            raise self._unauthorized(reason)

    def _unauthorized(self, reason: str) -> Unauthorized:
        return Unauthorized(
            "access is for root, members of the socket's group, and holders of a token",
            details=reason,
            resolution=self._advice
            or "use the manager's Unix socket, or show a token: Authorization: Bearer <token>",
        )

    def _worker(self, headers: Headers) -> UUID | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if self._worker_of is None or scheme.lower() != "bearer":
            return None
        return self._worker_of(token.strip())


def came_by_socket(scope: Scope) -> bool:
    """Whether this is a connection to our Unix socket: its own end is a path then, with no port.

    The server tells of its own end, which no peer has a say in, and which is there whatever the
    peer does.
    """
    server = scope.get("server")
    return server is not None and server[1] is None and str(server[0]).startswith("/")


def _only_reads(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD")


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
            "a worker's token does not allow this request",
            details=f"it allows to show the worker itself, and POST {own}/events, /pause and "
            "/checkpoints",
            resolution="use one of the manager's own tokens",
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def check_forwarded(headers: Headers) -> None:
    """Raises if a page of another origin calls by the Unix socket, which somebody forwards.

    Programs write what they like as ``Host`` there, but no browser is led to a name without a dot
    by somebody else's name server.
    """
    for host in headers.getlist("host"):
        # A browser takes a_b.example and a!b.example for names, too, but no path of a socket.
        named = "." in host and not {"/", "%"} & set(host)
        if named and not is_loopback(_PORT.sub("", host)):
            raise ForeignOrigin(
                "this Host is not served here",
                details="by the Unix socket only loopback names are answered (127.0.0.1, "
                "localhost, [::1]), and names without a dot",
                resolution="use http://localhost, or show a token (MANAGER_TOKENS)",
            )
    _check_own_page(headers)


def check_local(headers: Headers, *, linked: bool = False) -> None:
    """Raises unless ``Host`` is a loopback name, and a page that calls is this server's own.

    A page of any site may lead to what is ``linked``.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        raise MalformedRequest("exactly one Host header is required")
    try:
        name = urlsplit(f"//{hosts[0]}").hostname or ""
    except ValueError as error:
        raise MalformedRequest("the Host header is not a host") from error
    if not is_loopback(name) or not _HOST.fullmatch(hosts[0]):
        raise ForeignOrigin(
            "this Host is not served here",
            details="without tokens only loopback names are answered (127.0.0.1, localhost, [::1])",
            resolution="use http://127.0.0.1, or configure tokens (MANAGER_TOKENS)",
        )
    if not linked:
        _check_own_page(headers)


def _check_own_page(headers: Headers) -> None:
    host = headers.get("host", "")
    foreign = any(one.partition("://")[2] != host for one in headers.getlist("origin"))
    # Other ports of a host are the same site: what a container publishes is no page of ours.
    site = headers.get("sec-fetch-site", "").strip().lower()
    if foreign or site in ("cross-site", "same-site"):
        raise ForeignOrigin(
            "requests from other web sites are refused",
            details="the Origin header is not this server's own address",
            resolution="call from the server's own page or a program, or configure tokens",
        )
