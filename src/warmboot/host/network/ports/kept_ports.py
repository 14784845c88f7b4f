"""Ports of owners who have no slot for now: their VMs are parked. Who connects has them wake.

    keep ──▶ a connection is held ──▶ woken, and led: the port is its new slot's ──▶ let go
     ▲                                        │
     └──────── it failed: of the slot again ◀─┘

At an engine's own address no socket can listen, as others may have the same port on all addresses:
that is led to a port of the manager's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

import structlog

from warmboot.host.network.ports import ports
from warmboot.host.network.ports.ports import HeldPort
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest, NetworkError
from warmboot.model.worker import ListenAddress
from warmboot.system.on_demand.socket_activation import SocketActivation, Wake

_log = structlog.get_logger(__name__)


class KeptPorts:
    """``keep`` and ``let_go``, by owner; ``stop`` waking anybody, ``close``."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[PortMapping, HeldPort]] = {}
        self._owners: dict[int, str] = {}
        """By the index of the slot that takes over what is theirs."""
        self._lent: dict[socket.socket, HeldPort] = {}
        self._activation = SocketActivation()

    def keep(
        self,
        owner: str,
        mappings: Iterable[PortMapping],
        wake: Wake,
        held: dict[PortMapping, HeldPort],
    ) -> None:
        """Those that a slot has ``held`` are taken from it. What somebody else has is logged."""
        kept = self._kept.setdefault(owner, {})
        for mapping in mappings:
            if mapping in kept or not mapping.host_ip:
                continue
            if (port := held.pop(mapping, None) or _reserved(owner, mapping)) is not None:
                self._keep(owner, mapping, port, wake)

    def keep_led(self, owner: str, mapping: PortMapping, address: str, wake: Wake) -> HeldPort:
        """A port of this ``address``, to which the caller leads ``mapping``. ``NetworkError``."""
        port, _ = ports.reserve(PortMapping(0, 0, address, mapping.protocol))
        self._keep(owner, mapping, port, wake)
        return port

    def _keep(self, owner: str, mapping: PortMapping, port: HeldPort, wake: Wake) -> None:
        self._kept.setdefault(owner, {})[mapping] = port
        if self._activation.stopped:
            return
        opened = port.lend()
        self._lent[opened] = port
        answers = ListenAddress(mapping.host_ip, mapping.host_port)
        self._activation.listen(owner, wake, {opened: answers}, self._given_back)

    def give_up(self, owner: str, mapping: PortMapping) -> None:
        """It is not kept, after all."""
        self._kept[owner].pop(mapping).close()

    def _given_back(self, opened: socket.socket) -> None:
        self._lent.pop(opened).take_back()

    def of(self, owner: str) -> dict[PortMapping, HeldPort]:
        return dict(self._kept.get(owner, {}))

    def all(self) -> list[tuple[PortMapping, HeldPort]]:
        return [one for kept in self._kept.values() for one in kept.items()]

    def give_to(self, slot_index: int, owner: str) -> None:
        """What is published for this slot from now on may take what is the owner's."""
        self._owners[slot_index] = owner

    def take(self, slot_index: int, wanted: PortMapping) -> HeldPort | None:
        """The port, if it is kept for who has this slot. Connections to it are held as before."""
        kept = self._kept.get(self._owners.get(slot_index, ""), {})
        for mapping in kept:
            if (mapping.host_end, mapping.protocol) == (wanted.host_end, wanted.protocol):
                return kept.pop(mapping)
        return None

    def put_back(self, slot_index: int, mapping: PortMapping, port: HeldPort) -> None:
        """It was not taken, after all."""
        if (kept := self._kept.get(self._owners.get(slot_index, ""))) is None:
            port.close()  # its owner was let go meanwhile
        else:
            kept[mapping] = port

    def let_go(self, owner: str) -> None:
        """Nobody wakes this owner any more; what was not taken is closed. Idempotent."""
        self._activation.release(owner)
        for held in self._kept.pop(owner, {}).values():
            held.close()
        self._owners = {index: of for index, of in self._owners.items() if of != owner}
        self._lent = {opened: port for opened, port in self._lent.items() if opened.fileno() >= 0}

    def forget(self, slot_index: int) -> None:
        self._owners.pop(slot_index, None)

    async def stop(self) -> None:
        """Those that are held are cut off; the ports are kept."""
        await self._activation.stop()

    def close(self) -> None:
        for owner in list(self._kept):
            self.let_go(owner)


def _reserved(owner: str, mapping: PortMapping) -> HeldPort | None:
    try:
        return ports.reserve(mapping)[0]
    except (Conflict, InvalidRequest, NetworkError) as error:
        _log.warning("port of a parked VM not held", brief=error.brief, of=owner)
        return None
