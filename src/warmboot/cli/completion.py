"""Names for the shell's completion: asked of the manager, given up after a moment.

Not by ``warmboot.client``: what that imports takes longer than somebody waits for a tab.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Container
from typing import Any
from urllib.parse import urlsplit

from warmboot.client.endpoint import Endpoint

ANSWER_TIMEOUT_S = 0.7


_ALL = "/v1/containers?all=true"


def container_names(incomplete: str) -> list[str]:
    """Containers whose names begin so; none when the manager does not answer at once."""
    return _names(_ALL, incomplete)


def running_names(incomplete: str) -> list[str]:
    return _names(_ALL, incomplete, ("running",))


def living_names(incomplete: str) -> list[str]:
    return _names(_ALL, incomplete, ("running", "paused"))


def paused_names(incomplete: str) -> list[str]:
    return _names(_ALL, incomplete, ("paused",))


def parked_names(incomplete: str) -> list[str]:
    return _names(_ALL, incomplete, ("parked",))


def startable_names(incomplete: str) -> list[str]:
    return _names(_ALL, incomplete, ("created", "parked", "exited", "failed"))


def engine_names(incomplete: str) -> list[str]:
    return _names("/v1/engines", incomplete)


def forkable_names(incomplete: str) -> list[str]:
    found = {*running_names(incomplete), *_names("/v1/engines", incomplete, ("running",))}
    return sorted(found)


def prepared_names(incomplete: str) -> list[str]:
    """Images that are prepared."""
    found = _items("/v1/runtime-snapshots", lambda one: one["metadata"].get("image"))
    return sorted({name for name in found if name.startswith(incomplete)})


def snapshot_names(incomplete: str) -> list[str]:
    """Those of engines: versions have no names."""
    return _names("/v1/runtime-snapshots", incomplete)


def image_names(incomplete: str) -> list[str]:
    return _names("/v1/runtime-images", incomplete)


def worker_names(incomplete: str) -> list[str]:
    return _names("/v1/workers", incomplete)


def _names(path: str, incomplete: str, states: Container[str] = ()) -> list[str]:
    found = _items(path, lambda one: one["name"] if not states or one["state"] in states else None)
    return [name for name in found if name.startswith(incomplete)]


def _items(path: str, word: Callable[[Any], Any]) -> list[str]:
    """The word of each that has one."""
    try:
        found = [word(item) for item in _asked(path)["items"]]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return []
    return [one for one in found if isinstance(one, str)]


def _asked(path: str) -> Any:
    token = os.environ.get("WARMBOOT_TOKEN") or None
    endpoint = Endpoint.usual(token=bool(token))
    connection = _connection(endpoint)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", urlsplit(endpoint.url).path + path, headers=headers)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _connection(endpoint: Endpoint) -> http.client.HTTPConnection:
    parts = urlsplit(endpoint.url)
    if endpoint.socket is not None:
        connection = http.client.HTTPConnection("localhost", timeout=ANSWER_TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        connection.sock.connect(str(endpoint.socket))
        return connection
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=ANSWER_TIMEOUT_S)
