"""Deletes expired records: stored responses, journals of sagas, old reports of workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from warmboot.manager.core.background import Failed, Work, one_round
from warmboot.manager.core.event_log import KEEP_REPORTS, REPORTED
from warmboot.store import Store

ANSWERS_KEPT = timedelta(hours=24)
JOURNAL_KEPT = timedelta(days=7)
EVERY_S = 600.0


async def expire_records(store: Store, now: datetime | None = None) -> None:
    """Forget what has been kept long enough."""
    now = now or datetime.now(UTC)
    await store.idempotency.purge(now - ANSWERS_KEPT)
    await store.operations.purge(now - JOURNAL_KEPT)
    await store.events.trim_reports(REPORTED, KEEP_REPORTS)


async def keep_expiring(store: Store, failed: Failed) -> None:
    """``expire_records`` at once and every ten minutes, until cancelled."""
    while True:
        await one_round(Work.EXPIRE_RECORDS, expire_records(store), failed)
        await asyncio.sleep(EVERY_S)
