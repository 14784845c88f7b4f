"""A network of nothing but published ports: real sockets hold them, no rules lead anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from typing_extensions import override

from warmboot.host.network import Network, NetworkConfig, Slot
from warmboot.host.network.ports import ports
from warmboot.host.network.rules.upkeep import Repair
from warmboot.model.container import PortMapping
from warmboot.system.on_demand.socket_activation import Wake


class PortNetwork(Network):
    """For managers of simulated VMs, which have no network; on loopback."""

    def __init__(self, folder: Path) -> None:
        self._slots = NetworkConfig(folder, "tp", "10.213.0.0/20")
        super().__init__(self._slots)
        self._used = 0
        self.held = self._publishing._held
        self.led: dict[PortMapping, ports.HeldPort] = {}
        self.opened: dict[int, set[int]] = {}
        self.own: dict[str, set[tuple[str, int]]] = {}
        """What answers at the engines' own addresses."""

    @override
    async def start(
        self,
        in_use: Sequence[Slot],
        vmms: Mapping[int, int] | None = None,
        spare_others: bool = False,
    ) -> None:
        self._used = max((slot.index for slot in in_use), default=0)

    @override
    async def stop(self, keep: bool = True) -> None:
        for index in list(self.held):
            self._close(index)
        self._publishing.forget_held()

    @override
    async def acquire(self) -> Slot:
        self._used += 1
        here = Path("/proc/self/ns/net")
        return replace(self._slots.slot(self._used), uid=0, namespace=here)

    @override
    async def release(self, slot: Slot) -> None:
        self._close(slot.index)

    @override
    async def check_free(self, mapping: PortMapping) -> None:
        if mapping.host_port:
            ports.reserve(ports.check(mapping, "127.0.0.1"))[0].close()

    @override
    async def publish(self, slot: Slot, mapping: PortMapping) -> PortMapping:
        wanted = ports.check(mapping, "127.0.0.1", same_inside=True)
        held, real = await self._publishing.reserve(wanted, slot)
        real = replace(real, container_port=real.container_port or real.host_port)
        self.held.setdefault(slot.index, {})[real] = held
        self.led[real] = held
        return real

    @override
    async def withdraw(self, slot: Slot, mapping: PortMapping) -> None:
        if (held := self.led.pop(mapping, None)) is not None:
            held.close()

    @override
    async def republish(self, slot: Slot, mappings: Sequence[PortMapping]) -> None:
        for mapping in mappings:
            if IPv4Address(mapping.host_ip) in self.engine_network:
                self.own.setdefault(mapping.host_ip, set()).add(
                    (mapping.protocol, mapping.host_port)
                )
            else:
                await self.publish(slot, mapping)

    @override
    async def hold(
        self, owner: str, mappings: Collection[PortMapping], wake: Wake, slot: Slot | None
    ) -> None:
        led = [one for one in mappings if IPv4Address(one.host_ip) not in self.engine_network]
        await super().hold(owner, led, wake, slot)

    @override
    async def open_host_port(self, slot: Slot, port: int) -> None:
        self.opened.setdefault(slot.index, set()).add(port)

    @override
    async def lead_own(
        self, slot: Slot, address: str, numbers: Collection[tuple[str, int]]
    ) -> None:
        self.own[address] = set(numbers)

    @override
    async def unpublish(self, slot: Slot) -> None:
        self._close(slot.index)

    @override
    async def repaired(self) -> list[Repair]:
        return await asyncio.Future()

    @override
    async def wrong(self) -> list[str]:
        return []

    def _close(self, index: int) -> None:
        for held in self.held.pop(index, {}).values():
            held.close()
