"""The temporary VM in which a snapshot is built: a folder with disks, a row, and a network slot.

A build has two: the template that is frozen, and the canary that tries what was published.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.host.vm.vm_files import DiskSource
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store


class BuilderVm:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host

    async def make(
        self,
        vm_id: str,
        slot: Slot | None,
        snapshot: RuntimeSnapshot,
        image: RuntimeImage,
        source: DiskSource,
        *,
        template_dir: Path | None = None,
        background: bool = False,
    ) -> VmRecord:
        spec = await self._host.vms.make(
            vm_id, image, snapshot.shape, slot, source, template_dir, background=background
        )
        record = VmRecord(
            id=spec.id,
            kind=VmKind.BUILDER,
            owner_id=snapshot.id,
            spec=spec,
            token=secrets.token_urlsafe(32),
            created_at=datetime.now(UTC),
            slot=None if slot is None else slot.as_dict(),
        )
        await self._store.vms.add(record)
        return record

    async def unmake(self, vm_id: str, slot: Slot | None) -> None:
        """Idempotent; works for one that was never made."""
        await self._host.vms.destroy(vm_id, slot)
        await self._store.vms.remove(vm_id)
