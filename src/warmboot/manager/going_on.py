"""Work that goes on for ever, one round after the other.

A round that fails is logged and counted (``warmboot_background_failures_total``), and the next one
comes in its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import structlog

from warmboot.host.disks import os_error
from warmboot.model.errors import WarmbootError

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Work(StrEnum):
    """What goes on for ever; the values are a metric's label."""

    HOUSEKEEPING = "housekeeping"
    LOOK_AFTER = "look-after-snapshots"
    STAND_BY = "stand-by"
    FORGET_OLD = "forget-old"


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
