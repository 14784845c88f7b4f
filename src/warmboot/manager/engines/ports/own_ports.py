"""What answers at an engine's own address: all that its Docker has published.

So does what could not be published on the host, as others have it there: that is told, and noted
here. The caller has a lock on the engine's ports.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.engines.ports.docker_ports import is_same
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict, InvalidRequest, NotFound, WarmbootError
from warmboot.model.tenants.engine import Engine
from warmboot.store import Store

log = structlog.get_logger(__name__)

MOST_TAKEN = 1024
MOST_TOLD, TOLD_WITHIN_S = 20, 60.0
"""Events of one engine: its Docker is its user's, and others have something to tell, too."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """``container`` publishes it in the engine."""

    container: str
    may_be_free: bool
    """Some day: it is not refused for another reason."""


def free_here(led: Iterable[PortMapping], mapping: PortMapping) -> PortMapping:
    """``Conflict`` when the engine itself has it already, among what is led."""
    here = {(one.protocol, one.container_port) for one in led}
    if (mapping.protocol, mapping.container_port) in here:
        raise Conflict(
            f"port {mapping.host_end} is already taken in the engine",
            resolution="stop the container that publishes it",
        )
    return mapping


class OwnPorts:
    def __init__(self, store: Store, host: HostAgent, events: EventLog) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._taken: defaultdict[UUID, dict[PortMapping, _Taken]] = defaultdict(dict)
        """On the host, by others."""
        self._shown: dict[UUID, set[tuple[str, int]]] = {}
        self._told: defaultdict[UUID, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_TOLD))

    async def note_taken(
        self, engine_id: UUID, mapping: PortMapping, container: str, error: WarmbootError
    ) -> None:
        """Tell, once, that a port is not published on the host because of ``error``."""
        taken = self._taken[engine_id]
        known = mapping in taken
        if isinstance(error, Conflict | InvalidRequest) and len(taken) < MOST_TAKEN:
            taken[mapping] = _Taken(container, isinstance(error, Conflict))
        if known:
            return
        log.warning(f"a port of engine {engine_id} is not published", error=error.brief)
        told, now_s = self._told[engine_id], time.monotonic()
        if len(told) < MOST_TOLD or now_s - told[0] > TOLD_WITHIN_S:
            told.append(now_s)
            await self._events.emit("engine.port-taken", engine_id, error=error.as_dict())

    def expect(
        self,
        engine_id: UUID,
        published: Mapping[str, Iterable[PortMapping]],
        led: Collection[PortMapping],
    ) -> None:
        """What containers have ``published``, and an earlier manager could not lead on the host:
        it goes on answering there, and is not told once more."""
        taken = self._taken[engine_id]
        for container, mappings in published.items():
            for mapping in mappings:
                is_led = any(is_same(mapping, one) for one in led)
                if not is_led and len(taken) < MOST_TAKEN:
                    taken[mapping] = _Taken(container, may_be_free=True)

    def taken(self, engine_id: UUID) -> list[tuple[PortMapping, str]]:
        """What may be free some day, and which container in the engine publishes it."""
        noted = self._taken[engine_id].items()
        return [(mapping, one.container) for mapping, one in noted if one.may_be_free]

    async def is_published(self, engine_id: UUID, mapping: PortMapping) -> None:
        """Tell that a port is published on the host now, if it was not before."""
        if self._taken[engine_id].pop(mapping, None) is not None:
            await self._events.emit("engine.port-free", engine_id, port=mapping.host_end)

    def give_back(self, engine_id: UUID, container: str) -> None:
        """What that container had published besides."""
        taken = self._taken[engine_id]
        for mapping in [one for one, noted in taken.items() if noted.container == container]:
            del taken[mapping]

    def mappings(self, engine: Engine, led: Iterable[PortMapping]) -> list[PortMapping]:
        """What answers at its own address, if these are led."""
        if not engine.address:
            return []
        ends = self._ends(engine.id, led)
        return [PortMapping(port, port, engine.address, protocol) for protocol, port in ends]

    def _ends(self, engine_id: UUID, led: Iterable[PortMapping]) -> set[tuple[str, int]]:
        mappings = (*led, *self._taken[engine_id])
        return {(one.protocol, one.container_port) for one in mappings}

    async def show(self, engine_id: UUID, slot: Slot | None, led: Iterable[PortMapping]) -> None:
        """Have these answer there, and those that were noted; all others are refused."""
        ends = self._ends(engine_id, led)
        if ends == self._shown.get(engine_id, set()):
            return
        with contextlib.suppress(NotFound):  # it was removed
            address = (await self._store.engines.get(engine_id)).address
            if address:
                await self._host.vms.lead_own(slot, address, ends)
            self._shown[engine_id] = ends

    def forget(self, engine_id: UUID) -> None:
        """Its VM is another one, or gone."""
        self._taken.pop(engine_id, None)
        self._shown.pop(engine_id, None)

    def removed(self, engine_id: UUID) -> None:
        self.forget(engine_id)
        self._told.pop(engine_id, None)
