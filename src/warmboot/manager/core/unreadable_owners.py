"""What unreadable rows of the database may own: it belongs to nobody else, and is not garbage.

A row owns what its readable columns name. Where the column that would name a thing is the one
that cannot be read, it may be any of that kind, and none is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from warmboot.host.vm.protected import Protected
from warmboot.manager.protocols import Check
from warmboot.model.journal.operation import vms_in
from warmboot.model.owned_ids import OwnedIds
from warmboot.store import Store
from warmboot.store.lenient import UnreadableRow


class Of(Enum):
    TENANTS = auto()
    SNAPSHOTS = auto()
    VMS = auto()
    IMAGE_FOLDERS = auto()
    ARCHIVES = auto()


def _itself(value: Any) -> Iterable[str]:
    return () if value is None else (str(value),)


_NAMES: Mapping[Of, Mapping[tuple[str, str], Callable[[Any], Iterable[str]]]] = {
    Of.TENANTS: {
        ("containers", "id"): _itself,
        ("engines", "id"): _itself,
        ("vms", "owner_id"): _itself,
        ("operations", "subject_id"): _itself,
    },
    Of.SNAPSHOTS: {
        ("runtime_snapshots", "id"): _itself,
        ("containers", "runtime_snapshot_id"): _itself,
        ("engines", "runtime_snapshot_id"): _itself,
        ("vms", "snapshot_id"): _itself,
        ("vms", "owner_id"): _itself,
        ("leases", "snapshot_id"): _itself,
        ("operations", "subject_id"): _itself,
    },
    Of.VMS: {
        ("vms", "id"): _itself,
        ("containers", "vm_id"): _itself,
        ("engines", "vm_id"): _itself,
        ("operations", "data"): vms_in,
        ("operation_steps", "data"): vms_in,
    },
    Of.IMAGE_FOLDERS: {
        ("images", "path"): lambda path: (path.name,),
        ("vms", "spec"): lambda spec: (path.parent.name for path in spec.files),
    },
    Of.ARCHIVES: {
        ("containers", "spec"): lambda spec: (spec.archive,) if spec.archive else (),
    },
}
"""What a row names in which of its columns."""

_TABLES = ("images", "runtime_snapshots", "leases", "containers", "engines", "vms")


@dataclass(frozen=True, slots=True)
class UnreadableOwners:
    """The ids that ``rows``, which cannot be read, may own."""

    rows: tuple[UnreadableRow, ...] = ()

    def __getitem__(self, of: Of) -> OwnedIds:
        owned = OwnedIds()
        for row in self.rows:
            for (table, column), names in _NAMES[of].items():
                if row.table != table:
                    continue
                if column in row.values:
                    owned |= names(row.values[column])
                else:
                    owned |= OwnedIds(any_id=True)
        # An operation that lacks a part may have begun more than the rest of it tells.
        if of is Of.VMS and any(row.table.startswith("operation") for row in self.rows):
            owned |= OwnedIds(any_id=True)
        return owned

    def about(self, *ids: object) -> UnreadableRow | None:
        """The row that names one of ``ids`` as its own or its owner's."""
        wanted = {str(one) for one in ids if one is not None}
        names = ("id", "owner_id", "subject_id", "vm_id")
        for row in self.rows:
            if any(str(row.values.get(name)) in wanted for name in names):
                return row
        return None

    def vm_of_unknown(self) -> UnreadableRow | None:
        """A VM that may be any container's."""
        vms = (row for row in self.rows if row.table == "vms")
        return next((row for row in vms if "owner_id" not in row.values), None)

    def protected(self) -> Protected:
        """What the host leaves alone at the start."""
        vms = [row for row in self.rows if row.table == "vms"]
        slots = [row.values["slot"] for row in vms if row.values.get("slot") is not None]
        untold = any("slot" not in row.values for row in vms) or any(
            row.table.startswith("operation") for row in self.rows
        )
        return Protected(self[Of.VMS], tuple(slots), untold)


async def unreadable_owners(store: Store) -> UnreadableOwners:
    """The owners that cannot be read now. Read those that can be first: so none is missed
    in between.
    """
    rows = await store.unreadable.list(_TABLES)
    return UnreadableOwners((*rows, *await store.operations.unreadable()))


async def unreadable_rows(store: Store) -> list[Check]:
    """A check for ``warmboot doctor`` for each row that cannot be read."""
    shell = store.unreadable.shell
    return [
        Check(
            name="unsettled",
            ok=False,
            summary=f"the row {row.id} of the table {row.table} cannot be read; it is left as it "
            "is, with all that may belong to it",
            why=row.problem,
            remedy="run the version of warmboot that wrote it, or restore a backup; "
            f"to look at it: `{shell}` and `SELECT * FROM {row.table} WHERE {row.where};`; to give "
            "it up: stop the manager, end what it names (a VM's process, say), and "
            f"`DELETE FROM {row.table} WHERE {row.where};`",
            required=False,
        )
        for row in await store.unreadable.list()
    ]
