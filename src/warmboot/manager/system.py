"""The service itself, as the API offers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from warmboot import __version__
from warmboot.host.agent import HostAgent
from warmboot.hypervisors.base import Hypervisor
from warmboot.manager import doctor
from warmboot.manager.metrics import RecentBoots
from warmboot.manager.protocols import Check, HostInfo
from warmboot.manager.vms.warm_pool import WarmPool
from warmboot.model.shapes import Shape
from warmboot.model.usage import OwnedVm, Usage
from warmboot.store import Store


class System:
    """Implements ``protocols.System``."""

    def __init__(
        self,
        host: HostAgent,
        hypervisors: Sequence[Hypervisor],
        default_shape: Shape,
        worker_checks: Callable[[], Awaitable[Sequence[Check]]],
        store: Store,
        boots: RecentBoots,
        warm_pool: WarmPool,
    ) -> None:
        self._host = host
        self._hypervisors = hypervisors
        self._default_shape = default_shape
        self._worker_checks = worker_checks
        self._store = store
        self._boots = boots
        self._warm_pool = warm_pool

    async def info(self) -> HostInfo:
        probe = await self._host.probe()
        return HostInfo(
            version=__version__,
            hypervisor=probe.host.hypervisor,
            hypervisor_version=probe.host.hypervisor_version,
            accelerator=probe.host.accelerator,
            storage_root=self._host.storage.root,
            default_shape=self._default_shape,
            warm_pool=self._warm_pool.status(),
        )

    async def usage(self, window_s: float) -> Usage:
        records = {record.id: record for record in await self._store.vms.list()}
        vms = await self._host.vms.usage()
        return Usage(
            at=datetime.now(UTC),
            window_s=window_s,
            boots=self._boots.since(window_s),
            vms=tuple(
                OwnedVm(used, record.kind, record.owner_id)
                for used in vms
                if (record := records.get(used.vm_id)) is not None
            ),
            storage=self._host.storage.usage(),
        )

    async def doctor(self) -> Sequence[Check]:
        storage = self._host.storage
        checks = await doctor.examine(
            self._hypervisors,
            storage.root,
            storage.floor_bytes,
            simulated=self._host.hypervisor.name == "simulated",
        )
        if (network := self._host.network) is not None:
            checks.append(doctor.isolation(await network.wrong(), network.repairs))
        return [*checks, *await self._image_checks(), *await self._worker_checks()]

    async def _image_checks(self) -> list[Check]:
        return [
            Check(
                f"image {image.name}",
                False,
                f"the runtime image {image.name} is damaged",
                why=str(image.damage.get("details", "")),
                remedy=str(image.damage.get("resolution", "")),
            )
            for image in await self._store.images.list()
            if image.damage is not None
        ]
