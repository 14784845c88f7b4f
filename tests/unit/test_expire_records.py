"""What is kept for a while only, on the real store: answers under a key, what workers report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.databases import new_store

from warmboot.manager.core import event_log
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.garbage import expire_records as expiring
from warmboot.manager.garbage.expire_records import expire_records
from warmboot.model.journal.idempotency import Done, Reserved


async def test_an_answer_is_kept_for_24_hours_and_not_longer(tmp_path: Path) -> None:
    async with new_store(tmp_path) as store:
        await store.idempotency.reserve("s", "k", "hash")
        await store.idempotency.complete("s", "k", status=201, headers={}, body=b"made")
        now = datetime.now(UTC)
        await expire_records(store, now + timedelta(hours=23, minutes=59))
        assert await store.idempotency.reserve("s", "k", "hash") == Done(201, {}, b"made")
        await expire_records(store, now + timedelta(hours=24, minutes=1))
        assert await store.idempotency.reserve("s", "k", "hash") == Reserved()


async def test_what_a_worker_reports_takes_nobody_else_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "KEEP_REPORTS", 3)
    monkeypatch.setattr(event_log, "_TRIM_REPORTS_EVERY", 5)
    async with new_store(tmp_path) as store:
        events = EventLog(store)
        await events.emit("container.running", "web")
        await events.report("quiet", report="done", data={})
        for number in range(13):
            await events.report("loud", report="step", data={"n": number})
            assert len([e for e in await events.list() if e.subject_id == "loud"]) <= 3 + 5
        left = [(e.subject_id, e.data.get("data", {}).get("n")) for e in await events.list()]
        assert left[:2] == [("web", None), ("quiet", None)]
        assert left[-1] == ("loud", 12)


async def test_old_reports_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "KEEP_REPORTS", 2)
    async with new_store(tmp_path) as store:
        for number in range(5):
            await store.events.append(event_log.REPORTED, "loud", {"n": number})
        await expire_records(store)
        assert [event.data["n"] for event in await store.events.since(0)] == [3, 4]
