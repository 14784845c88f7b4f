"""Background work that continues after a failure: a failure ends only the current round.

    Tasks.keep_going ─▶ until_done:  ┌─▶ round ──▶ its end
                                     └─ pause ◀── it failed: logged, counted

A round that fails (a full disk, a lost database, a mistake of ours) is logged and counted
(``warmboot_background_failures_total``); the next one begins anew: it looks first at what is there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import structlog

from warmboot.model.errors import NotFound, WarmbootError
from warmboot.system.back_off import BackOff
from warmboot.system.disks import os_error

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

log = structlog.get_logger(__name__)


class Work(StrEnum):
    """What the manager does in the background; the values are a metric's label."""

    HOUSEKEEPING = "housekeeping"
    RECONCILE_SNAPSHOTS = "look-after-snapshots"
    WARM_POOL = "warm-pool"
    EXPIRE_RECORDS = "forget-old"
    PUT_AWAY_EXITED = "put-away-exited"
    PARK_IDLE = "park-idle"
    WAKE_AT_START = "wake-at-start"
    BRING_UP = "bring-up"
    WATCH_CONTAINERS = "watch-containers"
    WATCH_ENGINES = "watch-engines"
    RESUME_STALLED = "resume-stalled"
    KEEP_UNRESPONSIVE = "keep-unresponsive"
    BUILD_SNAPSHOTS = "build-snapshots"
    CREATE_WORKERS = "create-workers"
    WATCH_WORKERS = "watch-workers"
    WORKER_POLICIES = "worker-policies"
    RECOVER_WORKERS = "settle-workers"
    RESUME_WORKERS = "resume-workers"
    NETWORK_RULES = "network-rules"


Failed = Callable[[Work], None]
"""Told of every round that failed."""


async def one_round(work: Work, doing: Awaitable[T], failed: Failed) -> T | None:
    """What ``doing`` gives, or ``None`` if it failed."""
    try:
        return await doing
    except WarmbootError as error:
        log.error(f"{work} goes on later: {error.brief}", details=error.details)
    except OSError as error:
        told = os_error(error)
        log.error(f"{work} goes on later: {told.brief}", details=told.details)
    except Exception as error:  # whatever it is: or one mistake of ours would end all later rounds
        log.error(f"{work} goes on later: a round failed unexpectedly", exc_info=error)
    failed(work)
    return None


async def until_done(work: Work, begin: Callable[[], Awaitable[None]], failed: Failed) -> None:
    """Call ``begin``, and after a failure again, until what it began comes to its end.

    That is also where what it is about no longer exists (``NotFound``).
    """

    async def to_its_end() -> bool:
        try:
            await begin()
        except NotFound as gone:
            log.debug(f"{work} has ended: {gone.brief}")
        return True

    back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        began_s = time.monotonic()
        if await one_round(work, to_its_end(), failed):
            return
        if time.monotonic() - began_s > LONGEST_PAUSE_S:  # it went well for a while
            back_off.reset()
        await back_off.pause()  # nothing tells that a disk has room, or a database is back
