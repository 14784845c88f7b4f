"""All connections of the server: how many, what each is doing, and since when.

              ┌──────────── next request ◀──────────┐
    HEAD ──▶ REQUEST ──▶ answered, kept alive ──▶ IDLE
              └──────▶ SESSION (a WebSocket)

When there are as many as there may be, one that was refused already and has more to send, the one
that has been longest over its head, or else longest idle, makes room for a new one: whoever only
holds connections cannot keep others out. When all are at work, the new one is *surplus*: it is told
so. Where descriptors run out, whoever has them, it is cut off. Connections to the Unix socket and
to TCP are counted apart, as not everybody reaches both.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from enum import Enum

import structlog

from warmboot.api.http.limits import HttpLimits

log = structlog.get_logger(__name__)


class Phase(Enum):
    HEAD = "head"
    REQUEST = "request"
    IDLE = "idle"
    SESSION = "session"


@dataclass(slots=True, eq=False)
class Held:
    """An open connection, with its phase and the time at which that began."""

    transport: asyncio.Transport
    since: float
    phase: Phase = Phase.HEAD
    surplus: bool = False
    endless: bool = False
    """Whether what is sent now has no length: then its reader may take its time."""
    unsent_bytes: int = 0
    stuck_since: float | None = None
    draining: bool = False
    """Answered with a refusal, and read on for a moment only so that the answer arrives."""

    @property
    def by_socket(self) -> bool:
        """Whether it is one to the Unix socket."""
        found = self.transport.get_extra_info("socket")
        return found is not None and bool(found.family == socket.AF_UNIX)

    @property
    def descriptor(self) -> int:
        found = self.transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    def enter(self, phase: Phase, now: float) -> None:
        if phase is not self.phase:
            self.phase, self.since = phase, now

    def is_stuck(self, now: float, stalled_s: float) -> bool:
        """Whether the peer has taken nothing for that long of what waits to be sent to it."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting:
            self.stuck_since = None
        elif self.stuck_since is None or waiting < self.unsent_bytes:
            self.stuck_since = now
        self.unsent_bytes = waiting
        if self.stuck_since is None or now - self.stuck_since < stalled_s:
            return False
        streaming = self.phase is Phase.SESSION or (self.phase is Phase.REQUEST and self.endless)
        return self.transport.is_closing() or not streaming


class Connections:
    """Those that are open now. ``now`` is the loop's clock everywhere."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._held: dict[asyncio.BaseTransport, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def admit(self, transport: asyncio.Transport, now: float) -> Held | None:
        """Take it in, if need be in place of another; ``None``: there is no room, drop it."""
        held = Held(transport, now)
        alike = [one for one in self._held.values() if one.by_socket == held.by_socket]
        if self._few_descriptors(held):
            log.warning("file descriptors run out; new connections are refused")
            self._make_room(alike)  # for the next one: this one's descriptor is too high
            return None
        if len(alike) >= self.limits.connections and not self._make_room(alike):
            held.surplus = True
            log.warning(
                "all connections are in use; new ones are refused",
                limit=self.limits.connections,
            )
            if len(alike) >= self.limits.connections + self.limits.surplus:
                return None
        self._held[transport] = held
        return held

    def _few_descriptors(self, held: Held) -> bool:
        limits = self.limits
        most = limits.descriptors_by_socket if held.by_socket else limits.descriptors_by_tcp
        return held.descriptor >= most

    def of(self, transport: asyncio.BaseTransport) -> Held | None:
        return self._held.get(transport)

    def forget(self, transport: asyncio.BaseTransport) -> None:
        self._held.pop(transport, None)

    def _make_room(self, among: list[Held]) -> bool:
        waiting = [one for one in among if one.draining or one.phase in (Phase.HEAD, Phase.IDLE)]
        first = min(
            waiting,
            key=lambda one: (not one.draining, one.phase is not Phase.HEAD, one.since),
            default=None,
        )
        if first is None:
            return False
        log.warning("a waiting connection made room for a new one")
        self.forget(first.transport)
        first.transport.abort()
        return True

    def overdue(self, now: float) -> list[Held]:
        """The connections whose request head takes too long."""
        return [
            held
            for held in self._held.values()
            if held.phase is Phase.HEAD
            and now - held.since >= self.limits.head_s
            and not held.transport.is_closing()
        ]

    def drop_stuck(self, now: float) -> None:
        """End those whose peer takes nothing more. Called every second."""
        for held in list(self._held.values()):
            if held.is_stuck(now, self.limits.stalled_s):
                log.warning("a client did not take its answer, and was cut off")
                held.transport.abort()
