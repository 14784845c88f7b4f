"""Events and ``doctor`` tell when somebody has changed the rules that guests are confined by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from warmboot.host.network import Repair
from warmboot.manager import doctor
from warmboot.manager.event_log import EventLog
from warmboot.manager.tell_repairs import tell_repairs
from warmboot.model.errors import NetworkError
from warmboot.store import Store


async def test_what_was_put_back_is_one_event_and_each_failure_one(tmp_path: Path) -> None:
    async def repaired() -> Sequence[Repair]:
        error = NetworkError("nftables refused our rules", details="no memory")
        return [
            Repair(("host",)),
            Repair(("wb-2", "host")),
            Repair(("wb-3",), error),
        ]

    async with Store.open(f"sqlite:///{tmp_path / 'w.db'}") as store:
        events = EventLog(store)
        await events.start()
        await tell_repairs(repaired, events)
        told = [(one.kind, one.subject_id, one.data["where"]) for one in await events.list()]
        assert told == [
            ("network.rules-restored", "host", ["host", "wb-2"]),
            ("network.rules-broken", "host", ["wb-3"]),
        ]
        assert (await events.list())[1].data["error"]["details"] == "no memory"


def test_the_doctor_names_what_is_not_as_it_should_be() -> None:
    check = doctor.isolation(["host", "wb-3"], 2)
    assert not check.ok
    assert "host, wb-3" in check.summary
    assert check.remedy


def test_the_doctor_says_how_often_rules_were_changed() -> None:
    assert doctor.isolation([], 0).summary == "the network rules are as they should be"
    check = doctor.isolation([], 2)
    assert check.ok
    assert "2 times" in check.summary
