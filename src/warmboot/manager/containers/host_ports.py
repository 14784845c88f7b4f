"""Which host ports a container may have: what is refused before anything is booted for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.model.container import LIVING, Container, ContainerSpec, ContainerState, PortMapping
from warmboot.model.errors import Conflict, NotSupported
from warmboot.store import Store


class HostPorts:
    """The ports of this host, and who has them."""

    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def free(
        self, spec: ContainerSpec, but: UUID | None = None, *, now: bool = True
    ) -> AsyncIterator[ContainerSpec]:
        """``Conflict`` naming the container or the program that has one of its ports.

        ``but`` is the container itself. Within it nobody else is told that the ports are free: by
        its end they are taken, or their container is stored as one that has them. It gives the
        spec with one port of each range. One that is not to be started ``now`` has none until then.
        """
        if not spec.ports and not spec.publish_all:
            yield spec
            return
        if self._host.network is None:
            raise NotSupported(
                "ports cannot be published: this hypervisor has no network",
                resolution="leave them out, or run the manager with QEMU or Firecracker",
            )
        if not now:
            yield spec
            return
        async with self._lock:
            spec = await self._chosen(spec)
            await self._check(spec.ports, but)
            yield spec

    async def _chosen(self, spec: ContainerSpec) -> ContainerSpec:
        ports = [port for port in spec.ports if not port.host_port_last]
        for port in spec.ports:
            if port.host_port_last:
                ports.append(await self._one_of(port, ports))
        return replace(spec, ports=tuple(ports))

    async def _one_of(self, port: PortMapping, taken: Sequence[PortMapping]) -> PortMapping:
        for number in range(port.host_port, port.host_port_last + 1):
            one = replace(port, host_port=number, host_port_last=0)
            with contextlib.suppress(Conflict):
                if not any(one.overlaps(other) for other in taken):
                    await self._check((one,), None)
                    return one
        span = f"{port.host_ip}:{port.host_port}-{port.host_port_last}"
        raise Conflict(
            f"Bind for {span} failed: all ports are allocated",
            resolution="publish on a wider range, or on 0 for any free one",
        )

    async def _check(self, ports: Sequence[PortMapping], but: UUID | None) -> None:
        await self._check_containers(ports, but)
        await self._host.vms.check_ports(ports)

    async def _check_containers(self, ports: Sequence[PortMapping], but: UUID | None) -> None:
        for other in await self._store.containers.list(LIVING):
            if other.id == but:
                continue
            for wanted in ports:
                if any(wanted.overlaps(one) for one in (*other.ports, *other.spec.ports)):
                    raise Conflict(
                        f"port {wanted.host_end} is already taken on this host",
                        details=f"the container {other.name} has it",
                        resolution="publish on another host port, or on 0 for any free one; or "
                        f"{_freed_by(other)}",
                    )


def _freed_by(container: Container) -> str:
    if container.state is ContainerState.PARKED:  # which is not stopped, and keeps them
        first, then = f"warmboot wake {container.name}", f"warmboot stop {container.name}"
        return f"wake and stop that container first: `{first} && {then}`"
    return f"stop that container first: `warmboot stop {container.name}`"
