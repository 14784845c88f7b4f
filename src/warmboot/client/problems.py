"""Turns a problem+json response back into the error that the server raised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from warmboot.client.endpoint import Endpoint
from warmboot.model import errors


class ManagerUnreachable(errors.Unavailable):
    """Nothing answers at the manager's address."""

    code = "manager-unreachable"


def unreachable(endpoint: Endpoint, error: Exception) -> ManagerUnreachable:
    """The cause of ``error``, the failure of a connection, as a ``ManagerUnreachable``."""
    todo = endpoint.closed_to_us()
    if todo:
        return ManagerUnreachable(
            f"you may not use the manager's socket {endpoint.socket}",
            details="it is for root and, if it has one, for members of its group",
            resolution=todo,
        )
    return ManagerUnreachable(
        f"no manager answers at {endpoint}",
        details=str(error),
        resolution="start it with: warmboot serve (or set WARMBOOT_URL to where it runs)",
    )


def check_address(endpoint: Endpoint) -> None:
    """Refuse an address that no request can be sent to, before httpx fails on it."""
    try:
        parts = urlsplit(endpoint.url)
        _ = parts.port
    except ValueError as error:
        raise no_address(endpoint, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise no_address(endpoint, "it does not say http://HOST or unix:///PATH")


def no_address(endpoint: Endpoint, why: str) -> ManagerUnreachable:
    """The error for an address at which no manager can be."""
    return ManagerUnreachable(
        f"{endpoint.url!r} is not the address of a manager",
        details=why,
        resolution="set WARMBOOT_URL to something like http://127.0.0.1:18080 "
        "or unix:///run/warmboot/18080.sock",
    )


def _tree(base: type[errors.WarmbootError]) -> Iterator[type[errors.WarmbootError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)


# What a server may say that this client has no class for goes by its status.
_BY_STATUS: Mapping[int, type[errors.WarmbootError]] = {
    401: errors.Unauthorized,
    404: errors.NotFound,
    409: errors.Conflict,
    503: errors.Unavailable,
    507: errors.DiskFull,
}


def error_from(status: int, content: bytes) -> errors.WarmbootError:
    """The error told by a response that is no success."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "title" not in body:
        return not_ours(status, content)
    return _error(body, status)


def not_ours(status: int, content: bytes) -> errors.WarmbootError:
    """The error of a response that no manager gives."""
    return errors.Unavailable(
        f"the server answered {status}, but not in warmboot's format",
        details=content[:200].decode("utf-8", "replace"),
        resolution="check WARMBOOT_URL: is this the manager?",
    )


def error_of(body: Mapping[str, Any]) -> errors.WarmbootError:
    """The error told by a stored error or a session's last frame (``brief``, ``details``)."""
    told = {**body, "title": body.get("brief", "it failed"), "detail": body.get("details", "")}
    return _error(told, int(body.get("status", 500)))


def _error(body: Mapping[str, Any], status: int) -> errors.WarmbootError:
    code = body.get("code")
    fallback = errors.HostError if status >= 500 else errors.InvalidRequest
    kind = next(
        (known for known in _tree(errors.WarmbootError) if known.code == code),
        _BY_STATUS.get(status, fallback),
    )
    error = kind(
        str(body["title"]),
        details=str(body.get("detail") or ""),
        resolution=str(body.get("resolution") or ""),
    )
    if isinstance(error, errors.InvalidRequest):
        found = body.get("errors") or ()
        error.fields = tuple(str(one["field"]).removeprefix("body.") for one in found)
    return error
