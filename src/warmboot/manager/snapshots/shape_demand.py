"""Decides whether a snapshot is built for a shape, or an image, that has none: a pure function."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class DemandPolicy:
    """``boots`` cold ones of a shape, or starts of an image that is not prepared, within
    ``window_s`` seconds; 0 boots: never."""

    boots: int = 3
    window_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Demand:
    """``build`` or not, and ``why`` in words; ``asked`` is how often it was within the window."""

    build: bool
    asked: int
    why: str


def judge_demand(
    misses: Collection[datetime],
    now: datetime,
    policy: DemandPolicy,
    *,
    active: int,
    max_active: int,
    has_room: bool,
    limit: str = "MANAGER_MAX_RUNTIME_SNAPSHOTS",
) -> Demand:
    """``misses`` are the cold boots of that shape, or the starts of that image; ``active`` the
    snapshots that there are, of which the setting ``limit`` allows ``max_active``."""
    since = now - timedelta(seconds=policy.window_s)
    asked = sum(1 for miss in misses if since < miss <= now)
    often = f"asked for {asked} times within {policy.window_s:g} s"
    if policy.boots == 0:
        return Demand(False, asked, "snapshots by demand are turned off")
    if asked < policy.boots:
        return Demand(False, asked, f"{often}; it takes {policy.boots}")
    if active >= max_active:
        return Demand(
            False,
            asked,
            f"{often}, but there are {active} such snapshots already; {limit} is {max_active}",
        )
    if not has_room:
        return Demand(False, asked, f"{often}, but the disk is filled to its floor")
    return Demand(True, asked, often)
