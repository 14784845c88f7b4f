"""Repository of the VMs that the manager has started, so that the next one finds them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, select

from warmboot.model.errors import Conflict, NotFound
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store.database import Database
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import Updates, check_fields
from warmboot.store.tables import vms

_FIELDS = [field.name for field in fields(VmRecord)]
_CHANGEABLE = frozenset({"spec", "handle", "slot", "snapshot_id"})

ROWS = Rows(vms, lambda values: VmRecord(**values))
_OF_OWNER = (
    select(*ROWS.columns)
    .where(vms.c.owner_id == bindparam("owner_id"))
    .order_by(vms.c.created_at, vms.c.id)
)
_UPDATES = Updates(vms, ROWS.columns)


def _unknown(vm_id: str) -> NotFound:
    return NotFound(f"there is no VM {vm_id}")


class VmRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = database.insert(vms).on_conflict_do_nothing().returning(vms.c.id)

    async def add(self, vm: VmRecord) -> None:
        """``Conflict`` if its id is taken; ``NotFound`` if its snapshot is not there."""
        values = {name: getattr(vm, name) for name in _FIELDS}
        missing = NotFound(f"there is no runtime snapshot {vm.snapshot_id}")
        async with self._database.write(missing, alone=True) as connection:
            if (await connection.execute(self._add, values)).first() is None:
                raise Conflict(f"there is a VM {vm.id} already")

    async def get(self, vm_id: str) -> VmRecord:
        """The VM, or ``NotFound``."""
        async with self._database.read() as connection:
            query = select(*ROWS.columns).where(vms.c.id == vm_id)
            row = (await connection.execute(query)).first()
        if row is None:
            raise _unknown(vm_id)
        return ROWS.one(row)

    async def list(self, kind: VmKind | None = None) -> tuple[VmRecord, ...]:
        """All, or those of one kind; oldest first."""
        query = select(*ROWS.columns).order_by(vms.c.created_at, vms.c.id)
        if kind is not None:
            query = query.where(vms.c.kind == kind)
        async with self._database.read() as connection:
            return ROWS.all(await connection.execute(query))

    async def of_owner(self, owner_id: UUID) -> tuple[VmRecord, ...]:
        """The VMs of a container or of a snapshot that is built; oldest first.

        ``RowUnreadable`` if one cannot be read: its owner would seem to have no VM.
        """
        async with self._database.read() as connection:
            return ROWS.every(await connection.execute(_OF_OWNER, {"owner_id": owner_id}))

    async def update(self, vm_id: str, **changes: Any) -> VmRecord:
        """Change ``spec``, ``handle``, ``slot`` or ``snapshot_id``. ``NotFound``."""
        check_fields(changes, _CHANGEABLE)
        async with self._database.write(alone=True) as connection:
            row = await _UPDATES.update(connection, vm_id, changes)
            if row is None:
                raise _unknown(vm_id)
            return ROWS.one(row)

    async def remove(self, vm_id: str) -> bool:
        """Forget it; whether it was there. Its lease is released separately."""
        async with self._database.write(alone=True) as connection:
            gone = await connection.execute(delete(vms).where(vms.c.id == vm_id))
            return gone.rowcount > 0
