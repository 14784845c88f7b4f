"""What an engine's Docker says of itself that it has from the snapshot, told as the engine's own.

Its id (``docker info``) is read when dockerd starts, and its events are kept since then: in all
clones of a snapshot they are the same, and tell of what was done before the Docker was handed over.
So ``/info`` is answered with the engine's id, and who asks for past events gets those since the
hand-over. Labels are the engine's, too: dockerd takes them over some time after it was told. The
functions are pure but for the asking.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from warmboot.engine_socket.docker_form import path_of

_INFO = re.compile(r"(/v[0-9.]+)?/info", re.ASCII)
_EVENTS = re.compile(r"(/v[0-9.]+)?/events", re.ASCII)
_MOMENT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?", re.ASCII)
_NS_IN_S = 1_000_000_000
_AHEAD_S = 0.2
"""As much as the guest's clock may be before ours just after it was set; we wait for its events."""

OURS = ("warmboot-sandbox", "warmboot/probe:latest")
"""What the guest agent has in a Docker until it is handed over."""


class AsksForLines(Protocol):
    async def ask_for_lines(self, target: str) -> list[Any]: ...


def asks_who_it_is(method: bytes, target: bytes) -> bool:
    return method == b"GET" and _INFO.fullmatch(path_of(target)) is not None


def as_engines(answer: bytes, engine_id: str, labels: Sequence[str]) -> bytes | None:
    """The body of ``/info``; ``None`` where it is to stay as it is."""
    try:
        info = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(info, dict) or "ID" not in info:
        return None
    return json.dumps({**info, "ID": engine_id, "Labels": list(labels)}).encode() + b"\n"


def looks_back(method: bytes, target: bytes) -> bool:
    """Whether past events are asked for."""
    return _since(target) is not None and method == b"GET"


async def since_hand_over(docker: AsksForLines, target: bytes) -> bytes:
    """``target``, so that it asks for nothing from before the hand-over. ``Refusal``."""
    if (since_ns := _since(target)) is None:
        return target
    until_s = time.time() + _AHEAD_S
    told = await docker.ask_for_lines(f"/events?since=0&until={until_s:.9f}")
    first_ns = max((_time_ns(event) for event in _ours(told)), default=-1) + 1
    if since_ns >= first_ns:
        return target
    # dockerd refuses an end before the beginning.
    if (until_ns := _moment(target, "until")) is not None and since_ns <= until_ns:
        first_ns = min(first_ns, until_ns)
    path, _, query = target.decode("ascii", "replace").partition("?")
    moment = f"{first_ns // _NS_IN_S}.{first_ns % _NS_IN_S:09}"
    kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "since"]
    return f"{path}?{urlencode([('since', moment), *kept])}".encode()


def _since(target: bytes) -> int | None:
    """``None`` if it is not of events, or asks for none of the past."""
    return _moment(target, "since") if _EVENTS.fullmatch(path_of(target)) else None


def _moment(target: bytes, name: str) -> int | None:
    """As nanoseconds."""
    query = target.partition(b"?")[2].decode("ascii", "replace")
    given = next((value for key, value in parse_qsl(query) if key == name), "")
    found = _MOMENT.fullmatch(given)
    return None if found is None else int(found[1]) * _NS_IN_S + int((found[2] or "").ljust(9, "0"))


def _ours(told: list[Any]) -> Iterator[dict[str, Any]]:
    """Of containers by their name or image; the image's own events tell no more than its id."""
    events = [one for one in told if isinstance(one, dict)]
    removed = [number for number, one in enumerate(events) if _is_removal(one)]
    before = events[: removed[0]] if removed else []  # nobody else could bring an image yet
    images = {_actor(one).get("ID") for one in before if one.get("Type") == "image"}
    for event in events:
        if event.get("Type") == "image":
            ours = _actor(event).get("ID") in images
        else:
            about = _about(event)
            ours = about.get("name") in OURS or about.get("image") in OURS
        if ours:
            yield event


def _is_removal(event: dict[str, Any]) -> bool:
    return event.get("Action") == "destroy" and _about(event).get("name") == OURS[0]


def _actor(event: dict[str, Any]) -> dict[str, Any]:
    found = event.get("Actor")
    return found if isinstance(found, dict) else {}


def _about(event: dict[str, Any]) -> dict[str, Any]:
    found = _actor(event).get("Attributes")
    return found if isinstance(found, dict) else {}


def _time_ns(event: dict[str, Any]) -> int:
    found = event.get("timeNano")
    return found if isinstance(found, int) else 0
