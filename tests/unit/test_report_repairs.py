"""Events and ``doctor`` tell when somebody has changed the rules that guests are confined by."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.databases import new_store
from tests.support.managers import eventually
from typing_extensions import override

from warmboot.host.network import Repair
from warmboot.manager import doctor
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.report_repairs import keep_reporting, report_repairs
from warmboot.model.errors import NetworkError, Unavailable
from warmboot.model.journal.event import Event


async def test_what_was_put_back_is_one_event_and_each_failure_one(tmp_path: Path) -> None:
    async def repaired() -> Sequence[Repair]:
        error = NetworkError("nftables refused our rules", details="no memory")
        return [
            Repair(("host",)),
            Repair(("wb-2", "host")),
            Repair(("wb-3",), error),
        ]

    async with new_store(tmp_path) as store:
        events = EventLog(store)
        await events.start()
        await report_repairs(repaired, events)
        told = [(one.kind, one.subject_id, one.data["where"]) for one in await events.list()]
        assert told == [
            ("network.rules-restored", "host", ["host", "wb-2"]),
            ("network.rules-broken", "host", ["wb-3"]),
        ]
        assert (await events.list())[1].data["error"]["details"] == "no memory"


@pytest.mark.parametrize("number", [1, 2])
async def test_telling_goes_on_after_a_store_that_fails_once(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmboot.manager.core.retry_until_stored.FIRST_PAUSE_S", 0.0)
    asked, failures = 0, []

    async def repaired() -> Sequence[Repair]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        return [Repair(("host",)), Repair(("wb-3",), NetworkError("nftables refused our rules"))]

    class Failing(EventLog):
        @override
        async def emit(self, kind: str, subject_id: object, **data: Any) -> Event:
            failures.append((kind, subject_id))
            if len(failures) == number:
                raise Unavailable("the database is too busy")
            return await super().emit(kind, subject_id, **data)

    async with new_store(tmp_path) as store:
        events = Failing(store)
        await events.start()
        telling = asyncio.create_task(keep_reporting(repaired, events, lambda _: None))

        async def both_are_told() -> bool:
            return [one.kind for one in await events.list()] == [
                "network.rules-restored",
                "network.rules-broken",
            ]

        try:
            await eventually(both_are_told, "both are told")
        finally:
            telling.cancel()


def test_the_doctor_names_what_is_not_as_it_should_be() -> None:
    check = doctor.isolation(["host", "wb-3"], 2)
    assert not check.ok
    assert "host, wb-3" in check.summary
    assert check.remedy


def test_the_doctor_says_how_often_rules_were_changed() -> None:
    assert doctor.isolation([], 0).summary == "the network rules are correct"
    check = doctor.isolation([], 2)
    assert check.ok
    assert "2 times" in check.summary
