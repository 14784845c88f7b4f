"""VMs and network slots that are left alone at the start, though no readable record names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmboot.host.network import Slot
from warmboot.model.errors import NetworkError
from warmboot.model.owned_ids import NO_IDS, OwnedIds
from warmboot.model.vm import VmRecord


@dataclass(frozen=True, slots=True)
class Protected:
    """``slots`` as ``VmRecord`` has them; ``all_slots``: nobody can tell which those are."""

    vm_ids: OwnedIds = NO_IDS
    slots: Sequence[Mapping[str, Any]] = ()
    all_slots: bool = False

    @property
    def any(self) -> bool:
        return bool(self.vm_ids or self.slots or self.all_slots)


NOTHING = Protected()


def slots_in_use(
    records: Sequence[VmRecord], protected: Protected
) -> tuple[list[Slot], dict[int, int], bool]:
    """The slots, the VMMs' pids by the slots' indexes, and whether there may be more slots."""
    slots: list[Slot] = []
    vmms: dict[int, int] = {}
    more = protected.all_slots
    named = [(record.slot, record.handle) for record in records if record.slot is not None]
    for data, handle in [*named, *((data, None) for data in protected.slots)]:
        try:
            slot = Slot.from_dict(data)
        except NetworkError:  # told when the VM's container is settled
            more = True
            continue
        slots.append(slot)
        if handle is not None:
            vmms[slot.index] = handle.pid
    return slots, vmms, more
