"""As much of HTTP/1.1 as the agent needs, over blocking sockets with deadlines.

Everything that a client can make grow has a bound: the head, the body, and the time that either
may take to arrive.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

MAX_HEAD_BYTES = 32 << 10
MAX_BODY_BYTES = 64 << 10
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 300.0
_CHUNK = 64 << 10

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HttpError(Exception):
    """Ends a request with a status and a reason in words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """A request's head: as it came (``raw``, with the empty line), and taken apart."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        lines = raw[:-4].split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not parts[1].isascii():
            raise HttpError(400, "this is no HTTP/1.x request line")
        self.method = parts[0].decode("ascii", "replace")
        self.path = parts[1].decode().partition("?")[0]
        self.http_1_0 = parts[2] == b"HTTP/1.0"
        self.headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name):
                raise HttpError(400, "a header line is malformed")
            key = name.decode().lower()
            if key in self.headers and key in ("authorization", "content-length"):
                raise HttpError(400, f"the header {key} is there twice")
            self.headers[key] = value.strip().decode("latin-1")

    @property
    def keep_alive(self) -> bool:
        return not self.http_1_0 and self.headers.get("connection", "").lower() != "close"

    def without_token(self) -> bytes:
        """The head as it came, but for the Authorization header: nobody else needs to see it."""
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(x for x in lines if not x.lower().startswith(b"authorization:"))


class Connection:
    """One client's connection, with what has been read of it ahead of need."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ahead = b""

    def read_head(self) -> Head | None:
        """The next request's head; ``None`` when the client is done.

        The first byte may take ``IDLE_TIMEOUT_S``, the rest then ``HEAD_TIMEOUT_S``.
        """
        deadline = time.monotonic() + (HEAD_TIMEOUT_S if self.ahead else IDLE_TIMEOUT_S)
        searched = 0
        while (end := self.ahead.find(b"\r\n\r\n", max(0, searched - 3))) < 0:
            searched = len(self.ahead)
            if searched > MAX_HEAD_BYTES:
                raise HttpError(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
            chunk = self._receive(deadline)
            if not chunk:
                return None
            if not self.ahead:
                deadline = time.monotonic() + HEAD_TIMEOUT_S
            self.ahead += chunk
        if end > MAX_HEAD_BYTES:
            raise HttpError(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        raw, self.ahead = self.ahead[: end + 4], self.ahead[end + 4 :]
        return Head(raw)

    def read_body(self, head: Head) -> bytes:
        if "transfer-encoding" in head.headers:
            raise HttpError(411, "send the body with a Content-Length")
        text = head.headers.get("content-length", "0")
        if not text.isascii() or not text.isdigit():
            raise HttpError(400, "Content-Length is no number")
        length = int(text) if len(text) < 10 else MAX_BODY_BYTES + 1
        if length > MAX_BODY_BYTES:
            raise HttpError(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
        deadline = time.monotonic() + HEAD_TIMEOUT_S
        while len(self.ahead) < length:
            chunk = self._receive(deadline)
            if not chunk:
                raise HttpError(400, "the body ended early")
            self.ahead += chunk
        body, self.ahead = self.ahead[:length], self.ahead[length:]
        return body

    def read_json(self, head: Head) -> dict[str, Any]:
        """The body as a JSON object; an empty one is ``{}``."""
        body = self.read_body(head)
        if not body:
            return {}
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HttpError(400, f"the body is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise HttpError(400, "the body is no JSON object")
        return document

    def send_json(self, status: int, document: Mapping[str, Any], *, keep_alive: bool) -> None:
        body = json.dumps(document).encode() + b"\n"
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        self.sock.settimeout(HEAD_TIMEOUT_S)
        self.sock.sendall(head.encode() + body)

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise HttpError(408, "the request took too long to arrive")
        self.sock.settimeout(left)
        try:
            return self.sock.recv(_CHUNK)
        except TimeoutError as error:
            if not self.ahead:
                return b""  # idle too long: hang up without a word
            raise HttpError(408, "the request took too long to arrive") from error
