"""Ports of this machine that lead to a VM, and ports of this machine that a VM may reach."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Network

from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network, Slot
from warmboot.model.container import PortMapping
from warmboot.model.errors import HostError
from warmboot.model.usage import ForwardedConnections
from warmboot.system.on_demand.socket_activation import Wake


class VmPorts:
    """What of ``Vms`` has to do with ports. Without a ``network`` there are none."""

    def __init__(self, config: HostConfig, network: Network | None) -> None:
        self._config = config
        self._network = network

    async def publish(
        self, slot: Slot | None, ports: Sequence[PortMapping]
    ) -> tuple[PortMapping, ...]:
        """Forward host ports to the VM; the mappings with their real host ports."""
        if not ports:
            return ()
        if slot is None or self._network is None:
            raise HostError(
                "ports cannot be published: this hypervisor has no network",
                resolution="leave out the ports, or use QEMU or Firecracker",
            )
        return tuple([await self._network.publish(slot, mapping) for mapping in ports])

    async def check_ports(self, ports: Sequence[PortMapping]) -> None:
        """``Conflict`` when one is taken on this host, ``InvalidRequest`` when it can never be."""
        if self._network is not None:
            for mapping in ports:
                await self._network.check_free(mapping)

    async def withdraw(self, slot: Slot | None, ports: Sequence[PortMapping]) -> None:
        """Give some of a VM's host ports back. Idempotent."""
        if slot is not None and self._network is not None:
            for mapping in ports:
                await self._network.withdraw(slot, mapping)

    @property
    def engine_network(self) -> IPv4Network | None:
        """The part of this host's loopback in which engines have their own addresses, if
        they have ports.
        """
        return None if self._network is None else self._network.engine_network

    @property
    def mirror_port(self) -> int | None:
        """The port of this host's own 127.0.0.1 that every guest may reach, if there is one: the
        mirror of registries."""
        mirror = self._config.registry_mirror
        return None if mirror is None else mirror.host_port

    async def lead_own(
        self, slot: Slot | None, address: str, numbers: Collection[tuple[str, int]]
    ) -> None:
        """These ports, by protocol and number, are what answers at the VM's own ``address``."""
        if slot is not None and self._network is not None:
            await self._network.lead_own(slot, address, numbers)

    async def open_host_ports(self, slot: Slot | None, ports: Sequence[int]) -> None:
        """Let the guest reach these of the host's own 127.0.0.1, at its gateway, and the mirror
        of registries if it is there. Idempotent."""
        more = self.mirror_port
        if slot is not None and self._network is not None:
            for port in dict.fromkeys([*ports, *([] if more is None else [more])]):
                await self._network.open_host_port(slot, port)

    async def unpublish(self, slot: Slot | None) -> None:
        """Give a VM's host ports back, while it goes on. Idempotent."""
        if slot is not None and self._network is not None:
            await self._network.unpublish(slot)

    async def hold(
        self, owner: str, ports: Collection[PortMapping], wake: Wake, slot: Slot | None = None
    ) -> None:
        """Keep ports of this host for an ``owner`` who has no VM, or that in ``slot``, which is
        about to end: who connects has him ``wake``, and is answered then. Idempotent."""
        if self._network is not None:
            await self._network.hold(owner, ports, wake, slot)

    def give_to(self, slot: Slot | None, owner: str) -> None:
        """What is kept for this owner may be published for this VM."""
        if slot is not None and self._network is not None:
            self._network.give_to(slot, owner)

    async def let_go(self, owner: str) -> None:
        """Give back what was not published again. Idempotent."""
        if self._network is not None:
            await self._network.let_go(owner)

    async def stop_waking(self) -> None:
        """Nobody is woken any more; those whose connections are held are cut off."""
        if self._network is not None:
            await self._network.stop_waking()

    async def connections(self, slot: Slot | None) -> ForwardedConnections:
        """What is connected to the VM through ports of this host."""
        if slot is None or self._network is None:
            return ForwardedConnections()
        return await self._network.connections(slot)

    async def republish(self, slot: Slot | None, ports: Sequence[PortMapping]) -> None:
        """Hold the ports of an adopted VM again."""
        if slot is not None and self._network is not None:
            await self._network.republish(slot, ports)
