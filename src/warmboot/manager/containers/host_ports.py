"""Which host ports a container may have: what is refused before anything is booted for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.model.container import ContainerSpec, ContainerState
from warmboot.model.errors import Conflict, NotSupported
from warmboot.store import Store

_HAVE_PORTS = frozenset({ContainerState.CREATING, ContainerState.RUNNING})


class HostPorts:
    """The ports of this host, and who has them."""

    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def free(self, spec: ContainerSpec, but: UUID | None = None) -> AsyncIterator[None]:
        """``Conflict`` naming the container or the program that has one of its ports.

        ``but`` is the container itself. Within it nobody else is told that the ports are free: by
        its end they are taken, or their container is stored as one that has them.
        """
        if not spec.ports:
            yield
            return
        if self._host.network is None:
            raise NotSupported(
                "ports cannot be published: this hypervisor has no network",
                resolution="leave them out, or run the manager with QEMU or Firecracker",
            )
        async with self._lock:
            await self._check_containers(spec, but)
            await self._host.vms.check_ports(spec.ports)
            yield

    async def _check_containers(self, spec: ContainerSpec, but: UUID | None) -> None:
        for other in await self._store.containers.list(_HAVE_PORTS):
            if other.id == but:
                continue
            for wanted in spec.ports:
                if any(wanted.overlaps(one) for one in (*other.ports, *other.spec.ports)):
                    raise Conflict(
                        f"port {wanted.host_end} is already taken on this host",
                        details=f"the container {other.name} has it",
                        resolution="publish on another host port, or on 0 for any free one; or "
                        f"stop that container first: `warmboot stop {other.name}`",
                    )
