"""A VM that building a snapshot needs for a while: a slot, a folder with disks, a row.

Two of a build's steps make it, and their undo takes it away again, by names that were journaled
before: the template that is frozen, and the canary that tries what was published.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warmboot.host.agent import HostAgent
from warmboot.host.vm.vm_files import DiskSource
from warmboot.manager.core.saga import Context
from warmboot.manager.vms.boot_vm import journaled_slot
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store


class BuilderVm:
    """``prefix`` tells its names in the journal from those of a build's other VM."""

    def __init__(self, store: Store, host: HostAgent, prefix: str = "") -> None:
        self._store = store
        self._host = host
        self._id, self._slot, self._record = (
            f"{prefix}{name}" for name in ("vm_id", "slot", "record")
        )

    def data(self) -> dict[str, Any]:
        """What the journal has of it from the beginning."""
        return {self._id: f"vm-{secrets.token_hex(6)}", self._slot: None}

    def id(self, context: Context) -> str:
        return str(context.data[self._id])

    def record(self, context: Context) -> VmRecord:
        """Once it is made."""
        record: VmRecord = context.live[self._record]
        return record

    async def reserve(self, context: Context) -> None:
        slot = await self._host.reserve_slot()
        context.live[self._slot] = slot
        context.data[self._slot] = None if slot is None else slot.as_dict()

    async def unreserve(self, context: Context) -> None:
        await self._host.release_slot(journaled_slot(context, self._slot))

    async def make(
        self,
        context: Context,
        source: DiskSource,
        *,
        template_dir: Path | None = None,
        background: bool = False,
    ) -> None:
        snapshot: RuntimeSnapshot = context.live["snapshot"]
        spec = await self._host.make_vm(
            self.id(context),
            context.live["image"],
            snapshot.shape,
            context.live[self._slot],
            source,
            template_dir,
            background=background,
        )
        record = VmRecord(
            id=spec.id,
            kind=VmKind.BUILDER,
            owner_id=snapshot.id,
            spec=spec,
            token=secrets.token_urlsafe(32),
            created_at=datetime.now(UTC),
            slot=context.data[self._slot],
        )
        await self._store.vms.add(record)
        context.live[self._record] = record

    async def unmake(self, context: Context) -> None:
        await self._host.destroy(self.id(context), journaled_slot(context, self._slot))
        await self._store.vms.remove(self.id(context))
