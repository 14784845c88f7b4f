"""The notes of the real sagas: journaled as the first release did, under names of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.absent import ABSENT

from warmboot.host.network import Slot
from warmboot.manager.core.saga import Saga
from warmboot.manager.snapshots.build_snapshot import BuildNotes, BuildSnapshot
from warmboot.manager.vms.boot_vm import BootNotes, BootTimeouts, BootVm
from warmboot.model.journal.operation import Operation, OperationState

THING = uuid4()
BOOT = BootVm(ABSENT, ABSENT, ABSENT, ABSENT, BootTimeouts()).saga
BUILD = BuildSnapshot(ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1).saga
SLOT = Slot(
    index=3,
    namespace=Path("/run/netns/wb-3"),
    tap="tap0",
    guest_mac="06:00:ac:10:00:02",
    guest_ip="172.16.0.2",
    gateway_ip="172.16.0.1",
    host_ip="198.19.0.13",
    ns_ip="198.19.0.14",
    veth="wb-v3",
    uid=900_003,
    serial="a1",
)
JOURNALED: list[tuple[Saga[Any, Any], Any, dict[str, Any]]] = [
    (
        BOOT,
        BootNotes("vm-1", THING, keeps_disk=True, slot=SLOT),
        {
            "vm_id": "vm-1",
            "snapshot_id": str(THING),
            "keeps_disk": True,
            "slot": SLOT.as_dict(),
        },
    ),
    (
        BOOT,
        BootNotes("vm-1"),
        {"vm_id": "vm-1", "snapshot_id": None, "keeps_disk": False, "slot": None},
    ),
    (
        BUILD,
        BuildNotes(THING, "vm-1", None, "vm-2", SLOT),
        {
            "image_id": str(THING),
            "vm_id": "vm-1",
            "slot": None,
            "canary_vm_id": "vm-2",
            "canary_slot": SLOT.as_dict(),
        },
    ),
]


LATER: dict[str, dict[str, Any]] = {BOOT.kind: {"holds": False}, BUILD.kind: {}}
"""What has come since, and is not in what the first release has left."""


@pytest.mark.parametrize(("saga", "notes", "data"), JOURNALED, ids=["boot", "cold boot", "build"])
def test_notes_are_journaled_as_by_the_first_release(
    saga: Saga[Any, Any], notes: object, data: dict[str, Any]
) -> None:
    assert saga.encode(notes) == {**data, **LATER[saga.kind]}
    operation = Operation(uuid4(), saga.kind, str(THING), OperationState.RUNNING, (), data)
    assert saga.decode(operation) == notes


@pytest.mark.parametrize("saga", [BOOT, BUILD], ids=lambda saga: saga.kind)
def test_the_steps_of_a_real_saga_have_names_of_their_own(saga: Saga[Any, Any]) -> None:
    names = [step.name for step in saga.steps]
    assert len(set(names)) == len(names)
