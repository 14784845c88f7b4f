"""Where a Docker engine is: how a connection to it is made, and how its errors name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from warmboot.model.errors import EngineUnavailable, WarmbootError

ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """``connect`` makes a connector for at most so many connections (0: any number).

    ``unavailable`` is the error when ``name`` does not answer, and ``remedy`` what to do about it;
    ``disk`` is what is full when it has no space left, and ``make_room`` what to do then.
    """

    connect: Callable[[int], aiohttp.BaseConnector]
    unavailable: type[WarmbootError]
    name: str
    remedy: str
    disk: str
    make_room: str
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    headers: Mapping[str, str] = field(default_factory=dict)
    api_version: str = "auto"


def at_socket(socket: Path, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> Place:
    """The engine that listens on a Unix socket of this host."""
    return Place(
        connect=lambda limit: aiohttp.UnixConnector(str(socket), limit=limit),
        unavailable=EngineUnavailable,
        name=f"the Docker engine at {socket}",
        remedy="check whether it is running (`systemctl status docker`, `warmboot doctor`), "
        "then try again",
        disk="the disk of the Docker engine",
        make_room="delete checkpoints, containers or images that are not needed",
        answer_timeout_s=answer_timeout_s,
    )
