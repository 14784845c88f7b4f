"""Ports: published ones, which lead from the host to guests, and opened ones, the other way.

What is published and opened is kept here as well as in the rules: rules that somebody has removed
are put back from it (see ``upkeep``). ``lock`` is held while both are changed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import structlog

from warmboot.host.network import namespaces
from warmboot.host.network.config import DNS_PORT, NetworkConfig, Slot
from warmboot.host.network.ports import conntrack, holders, ports, sockets
from warmboot.host.network.ports.conntrack import Flow
from warmboot.host.network.ports.kept_ports import KeptPorts
from warmboot.host.network.rules import nft, rules
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest, NetworkError
from warmboot.system.on_demand.socket_activation import Wake
from warmboot.system.on_failure import on_failure

_log = structlog.get_logger(__name__)


class Publishing:
    """The ports of all slots of one manager."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._held: dict[int, dict[PortMapping, ports.HeldPort]] = {}
        self._published: dict[int, set[PortMapping]] = {}
        self._opened: dict[int, set[int]] = {}
        self.kept = KeptPorts()
        self.lock = asyncio.Lock()

    async def publish(self, slot: Slot, mapping: PortMapping) -> PortMapping:
        """Lead a host port to the guest's; returns the mapping with the real ``host_port``.

        A ``container_port`` of 0 is the same number as the host's. ``Conflict`` when the port is
        taken, ``InvalidRequest`` when the mapping makes no sense.
        """
        wanted = self._checked(mapping, same_inside=True)
        held, real = await self.reserve(wanted, slot)
        real = replace(real, container_port=real.container_port or real.host_port)
        with (
            on_failure(lambda: self._published.get(slot.index, set()).discard(real)),
            on_failure(held.close),
        ):
            await self._add_rules(slot, real)
            if real.protocol == "udp":
                await namespaces.in_thread(partial(_forget_strays, real))
        self._held.setdefault(slot.index, {})[real] = held
        return real

    async def check_free(self, mapping: PortMapping) -> None:
        """``Conflict`` and ``InvalidRequest`` as ``publish`` would raise them now."""
        wanted = self._checked(mapping)
        if wanted.host_port:
            held, _ = await self.reserve(wanted)
            held.close()

    def _checked(self, mapping: PortMapping, *, same_inside: bool = False) -> PortMapping:
        wanted = ports.check(mapping, self._config.publish_address, same_inside=same_inside)
        if self._is_engines(wanted):
            raise InvalidRequest(
                f"{wanted.host_ip} is not an address to publish ports on",
                details="it is kept for an engine, whose ports it leads to by itself",
                resolution="leave the address out, or use another one of this host",
            )
        return wanted

    def _is_engines(self, mapping: PortMapping) -> bool:
        return IPv4Address(mapping.host_ip) in self._config.engine_network

    async def reserve(
        self, wanted: PortMapping, slot: Slot | None = None
    ) -> tuple[ports.HeldPort, PortMapping]:
        """What is kept for who has the slot, or one that is free. ``Conflict``."""
        if slot is not None and (kept := self.kept.take(slot.index, wanted)) is not None:
            return kept, wanted
        try:
            return ports.reserve(wanted)
        except Conflict as error:
            holder = await namespaces.in_thread(partial(holders.of_port, wanted))
            raise ports.taken_error(wanted, holder) from error

    async def republish(self, slot: Slot, mappings: Sequence[PortMapping]) -> None:
        """Hold an adopted slot's ports again, these and no others. One that was taken meanwhile
        goes on being led to the guest, and is logged."""
        await self._lead_nothing_but(slot, mappings)
        for mapping in mappings:
            if mapping in self._held.get(slot.index, {}) or self._is_engines(mapping):
                continue
            try:
                held, _ = ports.reserve(mapping)
            except Conflict as error:
                _log.warning("published port not held", brief=error.brief, slot=slot.veth)
                continue
            self._held.setdefault(slot.index, {})[mapping] = held

    async def _lead_nothing_but(self, slot: Slot, mappings: Sequence[PortMapping]) -> None:
        """What ended while there was no manager is led no longer."""
        pairs = [rules.publish(self._config, slot, mapping) for mapping in mappings]
        inside = "\n".join([rules.close_inside(self._config), *(pair[1] for pair in pairs)])
        async with self.lock:
            self._published[slot.index] = set(mappings)
            wanted, _ = self.elements([slot])
            host = [pair[0] for pair in pairs]
            host += [
                self._deleted(key)
                for key, target in await self._elements(lambda ns_ip: ns_ip == slot.ns_ip)
                if json.dumps([{"concat": key}, {"concat": target}]) not in wanted
            ]
            await nft.apply(inside, slot.namespace)
            if host:
                await nft.apply("\n".join(host))

    async def lead_own(
        self, slot: Slot, address: str, numbers: Collection[tuple[str, int]]
    ) -> None:
        """These ports of the guest, by protocol and number, answer at its own ``address``."""
        wanted = {PortMapping(number, number, address, protocol) for protocol, number in numbers}
        led = {one for one in self._published.get(slot.index, ()) if one.host_ip == address}
        for mapping in led - wanted:
            await self.withdraw(slot, mapping)
        for mapping in wanted - led:
            await self._add_rules(slot, mapping)

    async def hold(
        self, owner: str, mappings: Collection[PortMapping], wake: Wake, slot: Slot | None
    ) -> None:
        """Keep ports for an ``owner`` who has no slot, or whose ``slot`` is about to go: nobody
        else gets them, and who connects has him ``wake``. Idempotent."""
        held = {} if slot is None else self._held.get(slot.index, {})
        own = {mapping for mapping in mappings if self._is_engines(mapping)}
        self.kept.keep(owner, (one for one in mappings if one not in own), wake, held)
        for mapping in own - self.kept.of(owner).keys():
            try:
                await self._hold_own(owner, mapping, wake, slot)
            except NetworkError as error:
                _log.warning("port of a parked VM not held", brief=error.brief, of=owner)

    async def _hold_own(
        self, owner: str, mapping: PortMapping, wake: Wake, slot: Slot | None
    ) -> None:
        async with self.lock:
            port = self.kept.keep_led(owner, mapping, str(self._config.dns_ip), wake)
            with on_failure(lambda: self.kept.give_up(owner, mapping)):  # it is tried again
                script = [rules.lead(self._config, mapping, *port.address)]
                if slot is not None:
                    # What another manager has led to it is not known.
                    published = self._published.get(slot.index, {mapping})
                    if mapping in published:
                        published.discard(mapping)
                        script.insert(0, rules.withdraw(self._config, slot, mapping)[0])
                await nft.apply("\n".join(script))

    async def let_go(self, owner: str) -> None:
        """Give back what is held for an ``owner``, and not led by now. Idempotent."""
        own = {at: port for at, port in self.kept.of(owner).items() if self._is_engines(at)}
        if own:
            async with self.lock:
                leads = (rules.lead(self._config, at, *port.address) for at, port in own.items())
                await nft.apply("\n".join(map(rules.and_deleted, leads)))
        self.kept.let_go(owner)

    async def withdraw(self, slot: Slot, mapping: PortMapping) -> None:
        """Give one port back; who is connected stays so until the guest ends it. Idempotent."""
        async with self.lock:
            published = self._published.get(slot.index, set())
            published.discard(mapping)
            host, inside = rules.withdraw(self._config, slot, mapping)
            await nft.apply(host)
            others = {(other.protocol, other.container_port) for other in published}
            if (mapping.protocol, mapping.container_port) not in others:
                await nft.apply(inside, slot.namespace)
        if (held := self._held.get(slot.index, {}).pop(mapping, None)) is not None:
            held.close()
        if mapping.protocol == "udp":  # for which there is no end
            await namespaces.in_thread(partial(_forget_strays, mapping))

    async def _add_rules(self, slot: Slot, mapping: PortMapping) -> None:
        host, inside = rules.publish(self._config, slot, mapping)
        kept = self.kept.take(slot.index, mapping) if self._is_engines(mapping) else None
        async with self.lock:
            with on_failure(lambda: self._still_kept(slot, mapping, kept)):
                self._published.setdefault(slot.index, set()).add(mapping)
                await nft.apply(inside, slot.namespace)
                if kept is not None:
                    led = rules.lead(self._config, mapping, *kept.address)
                    host = f"{rules.and_deleted(led)}\n{host}"
                await nft.apply(host)
        if kept is not None:  # to it nothing is led any more, but who has sent to it before
            self._held.setdefault(slot.index, {})[mapping] = kept
            if mapping.protocol == "udp":
                await namespaces.in_thread(partial(_forget_strays, mapping))

    def _still_kept(self, slot: Slot, mapping: PortMapping, kept: ports.HeldPort | None) -> None:
        """It is led to us as before: whoever tries again finds it so."""
        if kept is not None:
            self._published[slot.index].discard(mapping)
            self.kept.put_back(slot.index, mapping, kept)

    async def switch_host_port(self, slot: Slot, port: int, verb: str) -> None:
        """``add`` or ``delete`` the guest's way to a port of the host's own. Idempotent."""
        # What is not there cannot be deleted: added first, deleting is idempotent.
        steps = ["add", "delete"] if verb == "delete" else ["add"]
        scripts = [rules.open_port(self._config, slot, port, step) for step in steps]
        async with self.lock:
            opened = self._opened.setdefault(slot.index, set())
            opened.add(port) if verb == "add" else opened.discard(port)
            await nft.apply("\n".join(host for host, _ in scripts))
            await nft.apply("\n".join(inside for _, inside in scripts), slot.namespace)

    # -- the end ---------------------------------------------------------------------------------

    async def close_inside(self, slot: Slot) -> None:
        """No port is published in the namespace any more. Idempotent."""
        if slot.namespace.exists():
            async with self.lock:
                self._published.pop(slot.index, None)
                await nft.apply(rules.close_inside(self._config), slot.namespace)

    async def close(self, slot: Slot) -> None:
        """No port of the host leads to this slot, and no connection stays. Idempotent."""
        table = self._config.table
        async with self.lock:
            mappings = self._published.pop(slot.index, set())
            own_ports = self._opened.pop(slot.index, set())
            opened = [
                f'delete element ip {table} opened {{ "{link}" . {port} }}'
                for link, port in _concats(await nft.elements(table, "opened", "set"))
                if link == slot.veth
            ]
            await self._close({slot.ns_ip}, mappings, own_ports, opened)
        for held in self._held.pop(slot.index, {}).values():
            held.close()
        self.kept.forget(slot.index)

    async def close_all_but(self, alive: Collection[str], gone: Collection[str]) -> None:
        """What an earlier manager left open for slots that are not ``alive`` (by ``ns_ip``).

        An opened host port never outlives the manager.
        """
        async with self.lock:
            script = [rules.close_all_opened(self._config)]
            await self._close(set(gone), set(), set(), script, alive)

    async def _close(
        self,
        ns_ips: set[str],
        mappings: set[PortMapping],
        own_ports: set[int],
        script: list[str],
        alive: Collection[str] | None = None,
    ) -> None:
        def ends(ns_ip: str) -> bool:
            return ns_ip in ns_ips or (alive is not None and ns_ip not in alive)

        for key, (ns_ip, _) in await self._elements(ends):
            ns_ips.add(ns_ip)
            mappings.add(_mapping(key))
            script.append(self._deleted(key))
        if script:
            await nft.apply("\n".join(script))
        if ns_ips:
            await self._sever(ns_ips, mappings, own_ports)

    def _deleted(self, key: Sequence[Any]) -> str:
        name = "published_any" if len(key) == 2 else "published"
        joined = " . ".join(str(part) for part in key)
        return f"delete element ip {self._config.table} {name} {{ {joined} }}"

    async def _elements(self, matches: Callable[[str], bool]) -> list[tuple[list[Any], list[Any]]]:
        """Keys of the published ports that lead to matching addresses, and the address and port."""
        return [
            (key["concat"], value["concat"])
            for name in ("published", "published_any")
            for key, value in await nft.elements(self._config.table, name)
            if matches(value["concat"][0])
        ]

    async def _sever(
        self, ns_ips: set[str], mappings: set[PortMapping], own_ports: set[int]
    ) -> None:
        """End the connections of guests that are gone, for those at their other ends as well."""
        flows = await namespaces.in_thread(partial(conntrack.forget, ns_ips))
        if flows:
            await nft.apply(rules.ended(self._config, flows))
        reset = partial(_reset_sockets, ns_ips, mappings, own_ports, flows)
        count = await namespaces.in_thread(reset)
        if count:
            _log.info("connections to a VM that is gone were reset", count=count)

    def forget_held(self) -> None:
        """The rules stay, the ports are not held any more."""
        for held in self._held.values():
            for reserved in held.values():
                reserved.close()
        self.kept.close()
        for record in (self._held, self._published, self._opened):
            record.clear()

    # -- for putting back ------------------------------------------------------------------------

    def scripts(self, slots: Iterable[Slot]) -> tuple[str, str]:
        """What the ports of these slots need, on the host and inside; the host's part is also that
        of what is kept for who has no slot. Needs ``lock``."""
        host = [rules.lead(self._config, at, *port.address) for at, port in self._kept_own()]
        inside = []
        for slot in slots:
            pairs = [
                rules.publish(self._config, slot, mapping)
                for mapping in self._published.get(slot.index, ())
            ]
            pairs += [
                rules.open_port(self._config, slot, port, "add")
                for port in self._opened.get(slot.index, ())
            ]
            host += [pair[0] for pair in pairs]
            inside += [pair[1] for pair in pairs]
        return "\n".join(host), "\n".join(inside)

    def elements(self, slots: Iterable[Slot]) -> tuple[set[str], set[str]]:
        """The elements of sets that ``scripts`` adds, in nft's JSON, on the host and inside."""
        host = {_element(at, *port.address) for at, port in self._kept_own()}
        inside: set[str] = set()
        for slot in slots:
            for mapping in self._published.get(slot.index, ()):
                host.add(_element(mapping, slot.ns_ip, mapping.container_port))
                inside.add(json.dumps({"concat": [mapping.protocol, mapping.container_port]}))
            for port in self._opened.get(slot.index, ()):
                host.add(json.dumps({"concat": [slot.veth, port]}))
                inside.add(json.dumps(port))
        return host, inside

    def _kept_own(self) -> list[tuple[PortMapping, ports.HeldPort]]:
        return [(at, port) for at, port in self.kept.all() if self._is_engines(at)]


def _element(mapping: PortMapping, address: str, port: int) -> str:
    """Of the host's map, in nft's JSON: that this port leads there."""
    key: list[object] = [mapping.protocol, mapping.host_port]
    if not mapping.is_any:
        key.insert(0, mapping.host_ip)
    return json.dumps([{"concat": key}, {"concat": [address, port]}])


def _mapping(key: Sequence[Any]) -> PortMapping:
    """What was published under this key of a map; its port in the guest does not matter here."""
    *address, protocol, port = key
    return PortMapping(0, port, address[0] if address else "0.0.0.0", protocol)


def _forget_strays(mapping: PortMapping) -> None:
    """Whoever sent to it before is led to the guest from now on. Blocks."""
    here = sockets.own_addresses() if mapping.is_any else frozenset()
    conntrack.forget_strays(mapping, here)


def _reset_sockets(
    ns_ips: Collection[str],
    mappings: Collection[PortMapping],
    own_ports: Collection[int],
    flows: Collection[Flow],
) -> int:
    """Those of the host's own processes. Blocks."""
    tcp = [mapping for mapping in mappings if mapping.protocol == "tcp"]
    at_one = {(mapping.host_ip, mapping.host_port) for mapping in tcp}
    at_any = {mapping.host_port for mapping in tcp if mapping.is_any}
    here = sockets.own_addresses() if at_any else frozenset()
    exact = {(flow.client, flow.client_port, flow.host, flow.host_port) for flow in flows}

    def doomed(ends: sockets.Ends) -> bool:
        if ends.peer_ip in ns_ips or (ends.peer_ip, ends.peer_port) in at_one:
            return True
        if (ends.ip, ends.port, ends.peer_ip, ends.peer_port) in exact:
            return True
        local = ends.peer_ip in here or ends.peer_ip.startswith("127.")
        return ends.peer_port in at_any and local

    peer_ports = {port for _, port in at_one} | {flow.host_port for flow in flows}
    return sockets.reset(
        doomed,
        peer_ports=frozenset(peer_ports),
        own_ports=frozenset({DNS_PORT, *own_ports}),
    )


def _concats(elements: Sequence[Any]) -> list[list[Any]]:
    return [element["concat"] for element in elements]
