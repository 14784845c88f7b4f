"""The way to a container in its VM, for whoever asks for something of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import GuestLink
from warmboot.manager.containers.container_states import (
    check_has_process,
    check_runs,
    vm_gone,
)
from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.protocols import Until
from warmboot.manager.tenants.pause_tenant import (
    check_goes_on,
    check_not_parked,
    check_not_paused,
)
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import Conflict

BOOT_TIMEOUT_S = 600.0


class InGuest:
    def __init__(
        self,
        host: HostAgent,
        get: Callable[[str], Awaitable[Container]],
        wait: Callable[[str, Until, float], Awaitable[Container]],
        exited: ExitedVms,
    ) -> None:
        self._host, self._get, self._wait, self._exited = host, get, wait, exited

    async def __call__(self, ref: str, *, wakes: bool = True) -> Container:
        """The container, once it has been created in a VM, which is woken if it has exited;
        ``Conflict`` if that is not there, or would have to be woken and is not: that is no use."""
        container = await self._get(ref)
        if container.state is ContainerState.CREATING:
            container = await self._wait(ref, Until.RUNNING, BOOT_TIMEOUT_S)
        check_has_process(container)
        check_not_parked(container)
        if container.is_put_away and not wakes:
            raise Conflict(
                f"{container.name} has exited, and its VM is parked",
                details="it is not woken for what only accompanies something else",
                resolution=f"start it: `warmboot start {container.name}`",
            )
        if container.state is ContainerState.EXITED and wakes:
            await self._exited.wake(container.id)
            container = await self._get(str(container.id))
        if container.vm_id is None or not await self._host.vms.is_alive(container.vm_id):
            raise vm_gone(container)
        return container

    def link(self, container: Container) -> GuestLink:
        """``Conflict`` if it has no VM, or its VM does not go on."""
        if container.vm_id is None:
            raise Conflict(f"{container.name} has no VM")
        check_not_paused(container)
        check_goes_on(container)
        return self._host.vms.link(container.vm_id)

    async def found(self, ref: str, *, wakes: bool = True) -> tuple[GuestLink, str]:
        """Its VM's link, and what Docker there calls it."""
        container = await self(ref, wakes=wakes)
        assert container.docker_id is not None
        return self.link(container), container.docker_id

    async def running(self, ref: str) -> Container:
        """The same of one that runs; ``Conflict``: for what has ended no VM is woken."""
        container = await self._get(ref)
        if container.state is not ContainerState.EXITED:
            container = await self(str(container.id))
        check_runs(container)
        return container

    async def found_running(self, ref: str) -> tuple[GuestLink, str]:
        container = await self.running(ref)
        assert container.docker_id is not None
        return self.link(container), container.docker_id
