"""The service itself, as the API offers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from warmboot import __version__
from warmboot.host.agent import HostAgent
from warmboot.hypervisors.base import Hypervisor
from warmboot.manager import doctor
from warmboot.manager.ports import Check, HostInfo
from warmboot.model.shapes import Shape


class System:
    """Implements ``ports.System``."""

    def __init__(
        self,
        host: HostAgent,
        hypervisors: Sequence[Hypervisor],
        default_shape: Shape,
        worker_checks: Callable[[], Awaitable[Sequence[Check]]],
    ) -> None:
        self._host = host
        self._hypervisors = hypervisors
        self._default_shape = default_shape
        self._worker_checks = worker_checks

    async def info(self) -> HostInfo:
        probe = await self._host.probe()
        return HostInfo(
            version=__version__,
            hypervisor=probe.host.hypervisor,
            hypervisor_version=probe.host.hypervisor_version,
            accelerator=probe.host.accelerator,
            storage_root=self._host.config.root,
            default_shape=self._default_shape,
        )

    async def doctor(self) -> Sequence[Check]:
        config = self._host.config
        checks = await doctor.examine(self._hypervisors, config.root, config.disk_floor_bytes)
        return [*checks, *await self._worker_checks()]
