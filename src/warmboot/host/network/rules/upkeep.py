"""Restores the firewall rules, and the route of engines' addresses, which others have changed.

A firewall that is restarted removes every table of the host (``nft flush ruleset``). Until ours is
back guests reach nothing, and nothing reaches them (see ``rules``). The kernel tells of the change
(see ``monitor``); what is not as it should be is put back at once, and can be asked for
(``repaired``, ``wrong``).

    changed, by anybody ──▶ dirty ──▶ as it should be? ──no──▶ put back ──▶ told
                              ▲              │                     │ fails: told once,
                              └──────────────┴─────────────────────┘ tried again
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from warmboot.host.network import links, namespaces, own_route
from warmboot.host.network.config import NetworkConfig, Slot
from warmboot.host.network.ports.publishing import Publishing
from warmboot.host.network.rules import monitor, nft, rules
from warmboot.host.network.rules.forwarding import Forwarding
from warmboot.model.errors import NetworkError
from warmboot.system.concurrency import end

HOST = "host"
FORWARDING = "forwarding"

SETTLE_S = 0.05
RETRY_S = 1.0
LOOK_S = 30.0
"""How often what the kernel does not tell of is looked at."""

_IPTABLES = "filter"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Repair:
    """The places where rules were not as they should be: ``host``, ``forwarding``, or namespaces.

    ``error``: they could not be put back yet.
    """

    where: tuple[str, ...]
    error: NetworkError | None = None


def _watched() -> socket.socket:
    """In a namespace: its monitor. The rules of the host, which are there, need connections
    followed: so the kernel can be told how long to."""
    links.remember_half_closed()
    return monitor.open_socket()


class Upkeep:
    """Watches the rules of the host and of all slots between ``start`` and ``stop``."""

    def __init__(
        self, config: NetworkConfig, publishing: Publishing, forwarding: Forwarding
    ) -> None:
        self._config = config
        self._publishing = publishing
        self._forwarding = forwarding
        self._monitor = monitor.Monitor((config.table, _IPTABLES), self._changed)
        self._bridges: Sequence[str] = ()
        self._slots: dict[str, Slot] = {}
        self._expected: dict[bool, str] = {}  # by whether it is the host's
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._failing: set[str] = set()
        self._repairs: list[Repair] = []
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.count = 0

    async def start(self, bridges: Sequence[str]) -> None:
        """Set up the host's rules and route, and begin to watch."""
        self._bridges = bridges
        self._monitor.watch(HOST, await namespaces.in_thread(monitor.open_socket))
        await namespaces.in_thread(partial(own_route.keep, self._config))
        await nft.apply(rules.host(self._config, bridges))
        self._expected[True] = (await self._found(None)).rules
        self._task = asyncio.create_task(self._keep_up(), name="network-rules")

    async def stop(self) -> None:
        """Stop watching; the rules stay as they are. Idempotent."""
        if self._task is not None:
            await end(self._task)
            self._task = None
        self._monitor.close()
        self._slots.clear()

    async def add(self, slot: Slot) -> None:
        """Set up a namespace's rules, and watch them."""
        opened = await namespaces.in_thread(_watched, slot.namespace)
        self._monitor.watch(slot.veth, opened)
        async with self._publishing.lock:
            await nft.apply(rules.namespace(self._config, slot), slot.namespace)
            if False not in self._expected:
                self._expected[False] = (await self._found(slot)).rules
            self._slots[slot.veth] = slot

    def remove(self, slot: Slot) -> None:
        """Stop watching a namespace, before it is deleted. Idempotent."""
        self._slots.pop(slot.veth, None)
        self._monitor.forget(slot.veth)
        for names in (self._dirty, self._failing):
            names.discard(slot.veth)

    async def repaired(self) -> list[Repair]:
        """Wait until something was not as it should be; all of it since the last call."""
        await self._told.wait()
        self._told.clear()
        repairs, self._repairs = self._repairs, []
        return repairs

    async def wrong(self) -> list[str]:
        """The places where rules are not as they should be at this moment."""
        found = []
        for where in (HOST, *list(self._slots)):
            async with self._publishing.lock:
                if not await self._is_right(where):
                    found.append(where)
        return found

    # -- keeping up ------------------------------------------------------------------------------

    def _changed(self, where: str, table: str) -> None:
        if table == self._config.table:
            self._dirty.add(where)
        elif where == HOST:
            self._dirty.add(FORWARDING)
        else:
            return
        self._wake.set()

    async def _keep_up(self) -> None:
        pause_s = LOOK_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            if not self._wake.is_set() and not self._failing:
                self._dirty |= {HOST, FORWARDING}
            await asyncio.sleep(SETTLE_S)  # a change is many messages
            self._wake.clear()
            dirty, self._dirty = self._dirty | self._failing, set()
            await self._look(sorted(dirty))
            pause_s = RETRY_S if self._failing else LOOK_S

    async def _look(self, dirty: Collection[str]) -> None:
        put_back = []
        for where in dirty:
            try:
                if await self._put_back(where):
                    put_back.append(where)
                self._failing.discard(where)
            except Exception as error:  # noqa: BLE001 - whatever it is: the watch goes on
                self._failed(where, error)
        if put_back:
            _log.warning("network rules were changed, and are put back", where=put_back)
            self._tell(Repair(tuple(put_back)))

    def _failed(self, where: str, error: Exception) -> None:
        if where not in (HOST, FORWARDING) and where not in self._slots:
            return  # it was given back meanwhile
        if where not in self._failing:
            brief = f"the network rules of {where} could not be put back"
            told = (
                error
                if isinstance(error, NetworkError)
                else NetworkError(brief, details=repr(error))
            )
            _log.error("network rules could not be put back", where=where, details=told.details)
            self._failing.add(where)
            self._tell(Repair((where,), told))

    def _tell(self, repair: Repair) -> None:
        self.count += 1
        self._repairs = [*self._repairs[-99:], repair]
        self._told.set()

    async def _put_back(self, where: str) -> bool:
        """Whether that was needed."""
        if where == FORWARDING:
            return bool(await self._forwarding.allow())
        async with self._publishing.lock:
            if await self._is_right(where):
                return False
            if where == HOST:
                await namespaces.in_thread(partial(own_route.keep, self._config))
                ports, _ = self._publishing.scripts(self._slots.values())
                await nft.apply("\n".join([rules.host(self._config, self._bridges), ports]))
            else:
                slot = self._slots[where]
                _, ports = self._publishing.scripts([slot])
                script = "\n".join([rules.namespace(self._config, slot), ports])
                await nft.apply(script, slot.namespace)
            if not await self._is_right(where):
                raise NetworkError(
                    f"the network rules of {where} are changed again and again",
                    resolution=f"see which program changes the table ip {self._config.table} "
                    "(`nft monitor`)",
                )
            return True

    # -- looking ---------------------------------------------------------------------------------

    async def _is_right(self, where: str) -> bool:
        if where == HOST:
            if not await namespaces.in_thread(partial(own_route.is_kept, self._config)):
                return False
            slot, wanted = None, self._publishing.elements(self._slots.values())[0]
        elif where in self._slots:
            slot = self._slots[where]
            wanted = self._publishing.elements([slot])[1]
        else:
            return True
        found = await self._found(slot)
        return found.rules == self._expected[slot is None] and wanted <= found.elements

    async def _found(self, slot: Slot | None) -> _Found:
        namespace = None if slot is None else slot.namespace
        items = await nft.table(self._config.table, namespace)
        elements = {
            json.dumps(element)
            for item in items
            for kind in ("set", "map")
            for element in item.get(kind, {}).get("elem", ())
        }
        text = json.dumps(
            [_without_handle(item) for item in items if not {"set", "map"} & set(item)]
        )
        for address in () if slot is None else (slot.ns_ip, slot.host_ip, rules.sealed(slot.ns_ip)):
            text = text.replace(f'"{address}"', '"?"')
        return _Found(text, elements)


@dataclass(frozen=True, slots=True)
class _Found:
    rules: str
    elements: set[str]


def _without_handle(item: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: {key: value for key, value in content.items() if key != "handle"}
        for kind, content in item.items()
        if kind != "metainfo"
    }
