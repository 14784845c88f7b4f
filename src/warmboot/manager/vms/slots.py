"""A VM's place in the host's network, as its record has it."""

from __future__ import annotations

from warmboot.host.network import Slot
from warmboot.model.vm import VmRecord


def slot_of(record: VmRecord) -> Slot | None:
    return None if record.slot is None else Slot.from_dict(record.slot)
