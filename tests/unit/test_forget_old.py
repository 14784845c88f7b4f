"""Answers under an idempotency key are kept for a day, on the real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.databases import new_store

from warmboot.manager.garbage.forget_old import forget_old
from warmboot.model.idempotency import Claimed, Done


async def test_an_answer_is_kept_for_24_hours_and_not_longer(tmp_path: Path) -> None:
    async with new_store(tmp_path) as store:
        await store.idempotency.claim("s", "k", "hash")
        await store.idempotency.complete("s", "k", status=201, headers={}, body=b"made")
        now = datetime.now(UTC)
        await forget_old(store, now + timedelta(hours=23, minutes=59))
        assert await store.idempotency.claim("s", "k", "hash") == Done(201, {}, b"made")
        await forget_old(store, now + timedelta(hours=24, minutes=1))
        assert await store.idempotency.claim("s", "k", "hash") == Claimed()
