"""The network slots of this machine: prepared, assigned, published and released.

    (nothing) ──make──▶ idle ──acquire──▶ in use ──release──▶ (nothing)
        ▲                 │                 │
        └──── stop ───────┘                 └── kept over stop and a kill of the manager,
                                                named again to the next start

A slot is never used twice: tracked connections, neighbours and counters go with its namespace.
Whatever bears our prefix and is not named to ``start`` as in use was left by a manager that was
killed, perhaps half made, and is deleted there.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from warmboot.host.network import links, namespaces, preflight, repair_slot
from warmboot.host.network.config import NETNS_DIR, NetworkConfig, Slot
from warmboot.host.network.dns import NameServer
from warmboot.host.network.pool import SlotPool
from warmboot.host.network.ports import conntrack
from warmboot.host.network.ports.publishing import Publishing
from warmboot.host.network.rules import nft, rules
from warmboot.host.network.rules.forwarding import Forwarding
from warmboot.host.network.rules.upkeep import Repair, Upkeep
from warmboot.model.container import PortMapping
from warmboot.model.errors import NetworkError
from warmboot.model.usage import ForwardedConnections
from warmboot.system.concurrency import finish
from warmboot.system.on_demand.socket_activation import Wake
from warmboot.system.on_failure import on_failure

_FOREIGN_BRIDGES = ("docker", "br-", "virbr")

_log = structlog.get_logger(__name__)


class Network:
    """The networks of one manager's VMs. ``start`` first; no method blocks the event loop."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._pool = SlotPool(self._make_slot, config.pool_size)
        self._dns = NameServer(config)
        self._forwarding = Forwarding(config)
        self._taken: dict[int, str] = {}  # index: the slot's serial
        self._last_index = 0
        self._broken: dict[int, NetworkError] = {}  # by index: slots in use without a network
        self._publishing = Publishing(config)
        self._upkeep = Upkeep(config, self._publishing, self._forwarding)
        self._started = False

    # -- life ------------------------------------------------------------------------------------

    async def start(
        self,
        in_use: Sequence[Slot],
        vmms: Mapping[int, int] | None = None,
        spare_others: bool = False,
    ) -> None:
        """Set up the host, adopt ``in_use``, clear away what else bears our prefix, fill the pool.

        ``NetworkError`` when the machine lacks something or the subnet is in use. The prefix is
        ours alone by then (``host.manager_lock``). ``vmms`` has the pids of the processes in slots
        by index: around them what somebody has deleted of a slot in use is made again. Where that
        cannot be done, ``republish`` tells why, and ``release`` takes the slot all the same.
        ``spare_others``: what else bears our prefix may be somebody's: it is neither cleared away
        nor given to another.
        """
        preflight.check_host()
        self._config.state_dir.mkdir(parents=True, exist_ok=True)
        self._started = True
        async with on_failure(lambda: self.stop(keep=bool(in_use) or spare_others)):
            await self._set_up(in_use, vmms or {}, spare_others)

    async def _set_up(
        self, in_use: Sequence[Slot], vmms: Mapping[int, int], spare_others: bool
    ) -> None:
        config = self._config
        names = await namespaces.in_thread(links.link_names)
        await namespaces.in_thread(partial(preflight.check_subnet, config, names))
        self._taken = {slot.index: slot.serial for slot in in_use}
        self._last_index = max(self._taken, default=0)
        await self._forwarding.allow()  # before the watch, which would take it for a finding
        await self._upkeep.start(await self._foreign_bridges())
        leftovers = self._leftovers(names)
        alive = {slot.ns_ip for slot in in_use}
        if spare_others:
            alive |= {slot.ns_ip for slot in leftovers}
            self._taken |= {slot.index: slot.serial for slot in leftovers}
            leftovers = []
        await self._publishing.close_all_but(alive, {slot.ns_ip for slot in leftovers})
        await self._remove_all(leftovers)
        for slot in in_use:
            try:
                await self._take_over(slot, vmms.get(slot.index), names)
            except (NetworkError, OSError) as error:  # the others are taken over all the same
                told = error if isinstance(error, NetworkError) else NetworkError(str(error))
                _log.error(told.brief, slot=slot.veth, details=told.details)
                self._broken[slot.index] = told
        await self._dns.start()
        self._pool.start()

    async def _take_over(self, slot: Slot, vmm_pid: int | None, names: Sequence[str]) -> None:
        for what in await repair_slot.repair(slot, vmm_pid, names):
            _log.warning(f"{what} of a VM that runs was gone, and is there again", pid=vmm_pid)
        await namespaces.in_thread(partial(links.open_to_host, slot))
        await namespaces.in_thread(partial(links.close_inside, slot), slot.namespace)
        await self._upkeep.add(slot)

    async def stop(self, keep: bool = True) -> None:
        """Stop background work and remove idle slots. Idempotent.

        With ``keep``, slots in use stay and go on working without us, name server included.
        Without, everything goes.
        """
        if not self._started:
            return
        try:
            for slot in await self._pool.drain():
                await self.release(slot)
            await self._upkeep.stop()
            self._publishing.forget_held()
            if keep:
                await self._dns.let_go()
            else:
                await self._tear_down()
        finally:
            self._started = False

    async def _tear_down(self) -> None:
        self._taken = {}
        leftovers = self._leftovers(await namespaces.in_thread(links.link_names))
        await self._publishing.close_all_but((), {slot.ns_ip for slot in leftovers})
        await self._remove_all(leftovers)
        await self._dns.stop()
        await namespaces.in_thread(partial(links.delete_link, self._config.dns_link))
        await nft.apply(rules.delete_table(self._config))
        await self._forwarding.withdraw()

    async def audit(self) -> list[str]:
        """Names of everything of ours on this machine: namespaces, links, tables."""
        config = self._config
        spaces = [f"namespace {name}" for name in _namespace_names() if config.index_of(name)]
        names = await namespaces.in_thread(links.link_names)
        found = [
            f"link {name}" for name in names if name == config.dns_link or config.index_of(name)
        ]
        if (pid := self._dns.pid) is not None:
            found.append(f"name server {pid}")
        tables = [f"table {family} {name}" for family, name in await nft.tables()]
        return sorted([*spaces, *found, *(t for t in tables if t == f"table ip {config.table}")])

    # -- slots -----------------------------------------------------------------------------------

    async def acquire(self) -> Slot:
        """A fresh slot: from the pool at once, else made now. ``NetworkError``."""
        return await self._pool.take()

    async def release(self, slot: Slot) -> None:
        """Take a slot back with all its ports. Idempotent; the VMM should be dead by then.

        One that is not in use is left alone: it was cleared away when we started, and another may
        bear its names by now.
        """
        if self._taken.get(slot.index) == slot.serial:
            await finish(self._destroy(slot))

    async def _make_slot(self) -> Slot:
        slot = replace(self._config.slot(self._free_index()), serial=secrets.token_hex(4))
        self._taken[slot.index] = slot.serial
        async with on_failure(lambda: self._destroy_half_made(slot)):
            await self._forwarding.allow()
            await namespaces.in_thread(partial(links.build_slot, slot))
            await namespaces.in_thread(partial(links.open_to_host, slot))
            await self._upkeep.add(slot)
        return slot

    async def _destroy_half_made(self, slot: Slot) -> None:
        try:
            await finish(self._destroy(slot))
        except NetworkError as error:  # the first error, or the cancellation, counts
            _log.warning("half-made slot not removed", slot=slot.veth, details=error.details)

    def _free_index(self) -> int:
        """The next one in turn, so that an index just given back rests as long as possible."""
        capacity = self._config.capacity
        for step in range(capacity):
            index = (self._last_index + step) % capacity + 1
            if index not in self._taken:
                self._last_index = index
                return index
        raise NetworkError(
            f"all {capacity} network slots are in use",
            details=f"the subnet {self._config.subnet} has no more",
            resolution="delete containers, or give the manager a larger subnet",
        )

    async def _destroy(self, slot: Slot) -> None:
        self._upkeep.remove(slot)
        await self._publishing.close(slot)
        await self._remove(slot)
        self._taken.pop(slot.index, None)
        self._broken.pop(slot.index, None)

    async def _remove(self, slot: Slot) -> None:
        def remove() -> None:
            links.delete_link(slot.veth)
            with links.translated(f"delete the namespace {slot.namespace.name}"):
                namespaces.delete(slot.namespace)

        await namespaces.in_thread(remove)

    def _leftovers(self, link_names: Sequence[str]) -> list[Slot]:
        indexes = {self._config.index_of(name) for name in [*link_names, *_namespace_names()]}
        return [
            self._config.slot(index)
            for index in sorted(index for index in indexes if index is not None)
            if index not in self._taken
        ]

    async def _remove_all(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            _log.info("network slot removed", name=slot.veth)
            await self._remove(slot)

    async def _foreign_bridges(self) -> list[str]:
        """Patterns of other engines' bridges, unless the host's own way out is one of them."""
        uplinks = await namespaces.in_thread(links.default_route_links)
        return [
            f"{name}*"
            for name in _FOREIGN_BRIDGES
            if not any(uplink.startswith(name) for uplink in uplinks)
        ]

    # -- ports -----------------------------------------------------------------------------------

    async def publish(self, slot: Slot, mapping: PortMapping) -> PortMapping:
        """Lead a host port to the guest's; returns the mapping with the real ``host_port``.

        A ``container_port`` of 0 is the same number as the host's. ``Conflict`` when the port is
        taken, ``InvalidRequest`` when the mapping makes no sense.
        """
        return await self._publishing.publish(slot, mapping)

    async def check_free(self, mapping: PortMapping) -> None:
        """``Conflict`` and ``InvalidRequest`` as ``publish`` would raise them now."""
        await self._publishing.check_free(mapping)

    async def republish(self, slot: Slot, mappings: Sequence[PortMapping]) -> None:
        """Hold an adopted slot's ports again, these and no others. One that was taken meanwhile
        goes on being led to the guest, and is logged. ``NetworkError`` if the slot could not be
        taken over."""
        if (broken := self._broken.get(slot.index)) is not None:
            raise NetworkError(broken.brief, details=broken.details, resolution=broken.resolution)
        await self._publishing.republish(slot, mappings)

    @property
    def engine_network(self) -> IPv4Network:
        """The part of this host's loopback in which engines have their own addresses."""
        return self._config.engine_network

    async def lead_own(
        self, slot: Slot, address: str, numbers: Collection[tuple[str, int]]
    ) -> None:
        """These ports, by protocol and number, and no others lead from the engine's own
        ``address`` to the same in its guest. Idempotent."""
        await self._publishing.lead_own(slot, address, numbers)

    async def withdraw(self, slot: Slot, mapping: PortMapping) -> None:
        """Give back one of a slot's ports. Idempotent."""
        await self._publishing.withdraw(slot, mapping)

    async def unpublish(self, slot: Slot) -> None:
        """Give back all of a slot's ports, and end its connections. Idempotent."""
        await self._publishing.close_inside(slot)
        await self._publishing.close(slot)

    async def hold(
        self, owner: str, mappings: Collection[PortMapping], wake: Wake, slot: Slot | None
    ) -> None:
        """Keep ports for an ``owner`` who has no slot, or whose ``slot`` is about to go, until
        ``let_go``: who connects has him ``wake``, and is answered then. Idempotent."""
        await self._publishing.hold(owner, mappings, wake, slot)

    def give_to(self, slot: Slot, owner: str) -> None:
        """What is kept for this owner may be published for this slot."""
        self._publishing.kept.give_to(slot.index, owner)

    async def let_go(self, owner: str) -> None:
        """Give back what was not published again. Idempotent."""
        await self._publishing.let_go(owner)

    async def connections(self, slot: Slot) -> ForwardedConnections:
        """What is connected to the guest through published ports."""
        return await namespaces.in_thread(partial(conntrack.connections, slot.ns_ip))

    async def stop_waking(self) -> None:
        """Nobody is woken any more; those whose connections are held are cut off."""
        await self._publishing.kept.stop()

    async def open_host_port(self, slot: Slot, port: int) -> None:
        """Let the guest reach the host's own 127.0.0.1:``port`` (TCP) at its gateway's address."""
        await self._publishing.switch_host_port(slot, port, "add")

    async def close_host_port(self, slot: Slot, port: int) -> None:
        """Idempotent. Connections that are open stay open."""
        await self._publishing.switch_host_port(slot, port, "delete")

    def received_bytes(self, slot: Slot) -> int | None:
        """What came from the host's side for its guest so far; ``None`` if it is gone."""
        try:
            return int(Path(f"/sys/class/net/{slot.veth}/statistics/tx_bytes").read_text())
        except (OSError, ValueError):
            return None

    # -- the rules -------------------------------------------------------------------------------

    async def repaired(self) -> list[Repair]:
        """Wait until rules were changed by somebody else; where, since the last call."""
        return await self._upkeep.repaired()

    async def wrong(self) -> list[str]:
        """The places where rules are not as they should be: ``host``, or names of namespaces."""
        lost = [self._config.slot(index).veth for index in sorted(self._broken)]
        return lost + await self._upkeep.wrong()

    @property
    def repairs(self) -> int:
        """How often rules were changed by somebody else since the start."""
        return self._upkeep.count


def _namespace_names() -> list[str]:
    return [path.name for path in NETNS_DIR.iterdir()] if NETNS_DIR.exists() else []
