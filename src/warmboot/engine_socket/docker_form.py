"""Docker's forms: its errors, and which requests turn into streams. Pure functions."""

from __future__ import annotations

import json
import re
import struct
from typing import Any
from urllib.parse import unquote

Headers = list[tuple[bytes, bytes]]

RAW_STREAMS = ("application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream")

_HIJACKS = re.compile(
    r"(/v[0-9.]+)?(/containers/[^/]+/attach|/exec/[^/]+/start|/session|/grpc)", re.ASCII
)
_CREATE = re.compile(r"(/v[0-9.]+)?/containers/create", re.ASCII)
_START = re.compile(r"(/v[0-9.]+)?/containers/([^/]+)/(start|restart)", re.ASCII)
_GREETINGS = re.compile(r"(/v[0-9.]+)?/(_ping|version)", re.ASCII)
_STDERR = 2


class Refusal(Exception):
    """A request is not passed on: Docker's client shows ``message``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def body(self) -> bytes:
        return json.dumps({"message": self.message}).encode() + b"\n"

    @property
    def headers(self) -> Headers:
        return [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(len(self.body)).encode()),
            (b"Connection", b"close"),
        ]


def looks_inside(target: bytes) -> bool:
    """Whether a request is about more than that there is a Docker, and of which version."""
    return _GREETINGS.fullmatch(_path(target)) is None


def creates(method: bytes, target: bytes) -> bool:
    """Whether a container is to be created."""
    return method == b"POST" and _CREATE.fullmatch(_path(target)) is not None


def configuration(body: bytes) -> dict[str, Any] | None:
    """What a ``create`` asks for; ``None`` for what dockerd will refuse."""
    try:
        config = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def starts(method: bytes, target: bytes) -> str | None:
    """The name or id of the container that is to be started, if one is."""
    found = _START.fullmatch(_path(target)) if method == b"POST" else None
    return None if found is None else unquote(found[2])


def turns_into_stream(method: bytes, target: bytes, status: int, answer: Headers) -> bool:
    """Whether what follows an answer are bytes both ways, though it did not say 101.

    So Docker answers those who do not ask for an upgrade.
    """
    if method != b"POST" or status != 200 or not _HIJACKS.fullmatch(_path(target)):
        return False
    framed = (b"content-length", b"transfer-encoding")
    return not any(name.lower() in framed for name, _ in answer)


def content_type(headers: Headers) -> str:
    value = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return value.decode("latin-1").partition(";")[0].strip().lower()


def last_words(kind: str, message: str) -> bytes:
    """What a stream of this content type that breaks off can still say; nothing in most."""
    if kind == "application/vnd.docker.multiplexed-stream":
        said = f"{message}\n".encode()
        return struct.pack(">BxxxL", _STDERR, len(said)) + said
    if kind == "application/json":  # progress, a JSON value a line
        return json.dumps({"errorDetail": {"message": message}, "error": message}).encode() + b"\n"
    return b""


def _path(target: bytes) -> str:
    return target.partition(b"?")[0].decode("ascii", "replace")
