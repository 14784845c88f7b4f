"""Docker's forms: its errors, and which requests turn into streams. Pure functions."""

from __future__ import annotations

import functools
import json
import re
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

from warmboot.model.conventions.registry_logins import (
    AUTH,
    CONFIG,
    RegistryLogin,
    auth_header,
    config_header,
)

Headers = list[tuple[bytes, bytes]]

_HIJACKS = re.compile(
    r"(/v[0-9.]+)?(/containers/[^/]+/attach|/exec/[^/]+/start|/session|/grpc)", re.ASCII
)
_CREATE = re.compile(r"(/v[0-9.]+)?/containers/create", re.ASCII)
_VOLUME = re.compile(r"(/v[0-9.]+)?/volumes/create", re.ASCII)
_START = re.compile(r"(/v[0-9.]+)?/containers/(.+)/(start|restart)", re.ASCII)
_GREETINGS = re.compile(r"(/v[0-9.]+)?/(_ping|version)", re.ASCII)
_PULL = re.compile(r"(/v[0-9.]+)?/images/create", re.ASCII)
_OF_IMAGE = re.compile(r"(/v[0-9.]+)?/(?:images/(.+)/push|distribution/(.+)/json)", re.ASCII)
_BUILD = re.compile(r"(/v[0-9.]+)?/build", re.ASCII)
_WAIT = re.compile(r"(/v[0-9.]+)?/containers/[^/]+/wait", re.ASCII)
_FOLLOWED = re.compile(r"(/v[0-9.]+)?(/events|/containers/[^/]+/stats)", re.ASCII)
_WHOLE_URL = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:(?://[^/]*)?(/.*)?", re.DOTALL)
_STDERR = 2

_FIELDS = ("HostConfig", "ExposedPorts", "Image")
_HOST_FIELDS = ("Binds", "Mounts", "PortBindings", "PublishAllPorts")
_BINDING_FIELDS = ("HostIp", "HostPort")
_MOUNT_FIELDS = ("Type", "Source")


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
    return _GREETINGS.fullmatch(path_of(target)) is None


def is_the_agents(target: bytes) -> bool:
    """Whether the guest's agent would answer it, to which the front shows its token. dockerd has
    nothing there."""
    return path_of(target).startswith("/warmboot")


def creates(method: bytes, target: bytes) -> bool:
    """Whether a container is to be created."""
    return method == b"POST" and _CREATE.fullmatch(path_of(target)) is not None


def makes_volume(method: bytes, target: bytes) -> bool:
    return method == b"POST" and _VOLUME.fullmatch(path_of(target)) is not None


def volume(body: bytes) -> dict[str, Any]:
    """What a volume is to be; empty for what is dockerd's to refuse."""
    try:
        said = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return _named(said, ("DriverOpts",)) if isinstance(said, dict) else {}


def configuration(body: bytes) -> tuple[dict[str, Any], bool] | None:
    """What a ``create`` asks for; ``None`` for what is no object, which dockerd will refuse.
    ``Refusal`` for what cannot be read here: dockerd reads on where we would not (``{}}``).

    Docker takes ``hostconfig`` for ``HostConfig``, and puts together what is said twice. Here the
    fields that count get their proper names, and the last one counts; with ``True`` the body does
    not say so by itself, and is to be replaced.
    """
    twice = False

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        found = dict(pairs)
        twice = twice or len(found) < len(pairs)
        return found

    try:
        config = json.loads(body.decode("utf-8", "replace"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the configuration of a container cannot be read: {error}") from None
    if not isinstance(config, dict):
        return None
    proper = _named(config, _FIELDS)
    if isinstance(host := proper.get("HostConfig"), dict):
        proper["HostConfig"] = host = _named(host, _HOST_FIELDS)
        host |= {"Mounts": _each(host["Mounts"], _MOUNT_FIELDS)} if "Mounts" in host else {}
        if isinstance(bound := host.get("PortBindings"), dict):
            host["PortBindings"] = {k: _each(one, _BINDING_FIELDS) for k, one in bound.items()}
    return proper, twice or proper != config


def _named(given: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    proper = {field.casefold(): field for field in fields}
    return {proper.get(name.casefold(), name): value for name, value in given.items()}


def _each(given: Any, fields: tuple[str, ...]) -> Any:
    if not isinstance(given, list):
        return given
    return [_named(one, fields) if isinstance(one, dict) else one for one in given]


def starts(method: bytes, target: bytes) -> str | None:
    """The name or id of the container that is to be started, if one is."""
    found = _START.fullmatch(path_of(target)) if method == b"POST" else None
    return None if found is None else found[2]


def with_login(logins: Sequence[RegistryLogin], target: bytes, headers: Headers) -> Headers | None:
    """What a pull, push or build is to be sent with, so that registries know who asks; ``None``
    where it stays as it is."""
    path = path_of(target)
    if _BUILD.fullmatch(path):
        return _with(headers, CONFIG, config_header(logins, _value(headers, CONFIG)))
    if _PULL.fullmatch(path):
        query = parse_qs(target.partition(b"?")[2].decode("ascii", "replace"))
        reference = query.get("fromImage", [""])[0]
    elif found := _OF_IMAGE.fullmatch(path):
        reference = found[2] or found[3]
    else:
        return None
    if not reference:
        return None
    return _with(headers, AUTH, auth_header(logins, reference, _value(headers, AUTH)))


def _value(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name.lower() == wanted.lower()), None)


def _with(headers: Headers, name: bytes, value: bytes | None) -> Headers | None:
    if value is None:
        return None
    return [*(pair for pair in headers if pair[0].lower() != name.lower()), (name, value)]


def turns_into_stream(method: bytes, target: bytes, status: int, answer: Headers) -> bool:
    """Whether what follows an answer are bytes both ways, though it did not say 101.

    So Docker answers those who do not ask for an upgrade.
    """
    if method != b"POST" or status != 200 or not _HIJACKS.fullmatch(path_of(target)):
        return False
    framed = (b"content-length", b"transfer-encoding")
    return not any(name.lower() in framed for name, _ in answer)


def content_type(headers: Headers) -> str:
    value = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return value.decode("latin-1").partition(";")[0].strip().lower()


def last_words(kind: str, message: str, target: bytes) -> bytes:
    """What a stream of this content type that breaks off can still say; nothing in most."""
    if kind == "application/vnd.docker.multiplexed-stream":
        said = f"{message}\n".encode()
        return struct.pack(">BxxxL", _STDERR, len(said)) + said
    path = path_of(target)
    if kind != "application/json" or _FOLLOWED.fullmatch(path):
        return b""  # each value is an event there: "unexpected EOF", as of a dockerd that is killed
    if _WAIT.fullmatch(path):
        # Docker's client takes what is no JSON for an error. Of a StatusCode it prints the number,
        # and exits with 0, whatever Error stands beside it.
        return message.encode()
    # progress, a JSON value a line
    return json.dumps({"errorDetail": {"message": message}, "error": message}).encode() + b"\n"


@functools.lru_cache(64)  # every request's is looked at by several
def path_of(target: bytes) -> str:
    """The path of a target as Docker understands it: of a whole URL, too, and with ``%41``
    decoded.
    """
    path = target.partition(b"?")[0]
    if (found := _WHOLE_URL.fullmatch(path)) is not None:
        path = found[1] or b"/"
    return unquote(path.decode("ascii", "replace"))
