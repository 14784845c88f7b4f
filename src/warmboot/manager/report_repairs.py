"""Emits events when firewall rules that confine guests were changed and restored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from warmboot.host.network import Repair
from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored

QUIET_S = 1.0
"""Who changes them again and again is told of once in this time."""

Repaired = Callable[[], Awaitable[Sequence[Repair]]]


async def report_repairs(repaired: Repaired, events: EventLog) -> None:
    """Wait for changes, and report them."""
    repairs = await repaired()
    put_back = sorted({where for one in repairs if one.error is None for where in one.where})
    if put_back:
        await retry_until_stored(
            "that network rules were put back",
            lambda: events.emit("network.rules-restored", "host", where=put_back),
        )
    for one in repairs:
        if (error := one.error) is not None:
            where, told = list(one.where), error.as_dict()
            await retry_until_stored(
                "that network rules are not as they should be",
                lambda where=where, told=told: events.emit(  # type: ignore[misc]
                    "network.rules-broken", "host", where=where, error=told
                ),
            )


async def keep_reporting(repaired: Repaired, events: EventLog, failed: Failed) -> None:
    """``report_repairs`` until cancelled."""
    while True:
        await one_round(Work.NETWORK_RULES, report_repairs(repaired, events), failed)
        await asyncio.sleep(QUIET_S)
