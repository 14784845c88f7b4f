"""The progress of an image pull, and its timeout: it ends one that makes none, never a slow one.

Docker waits without a limit for a registry that has taken the connection and says nothing. Signs of
life are Docker's messages; bytes that reach the engine, since Docker tells of a slow layer rarely;
and work that needs no registry, such as unpacking. Docker also tries a layer six times in 75 s,
whatever it runs into: where not one byte of a layer came in two tries, none will.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from warmboot.docker.errors import registry_unavailable
from warmboot.system.concurrency import end

_LEAST_BYTES = 4096
"""Received between two looks; less is what keeps a connection open, and no progress."""
_LOOKS = 4
"""How often it is looked within the time that silence may last."""
_MOST_TRIES = 2
_RETRYING = re.compile(r"Retrying in (\d+) second")
_LOCAL = ("Verifying Checksum", "Extracting")

Message = Mapping[str, Any]

Progress = Callable[[Message], Awaitable[None]]
"""Called with Docker's messages of a pull."""


async def no_progress(_: Message) -> None:
    """Nobody is watching."""


def nothing_known() -> int | None:
    """The count of received bytes where nobody counts them: always 0."""
    return None


@dataclass
class Layers:
    """What Docker's messages have told of a pull's layers."""

    last: dict[str, str] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=dict)
    countdown: dict[str, int] = field(default_factory=dict)

    def heard(self, message: Message) -> None:
        layer, status = str(message.get("id", "")), str(message.get("status", ""))
        self.last[layer] = status
        if status == "Downloading" and (message.get("progressDetail") or {}).get("current"):
            self.received.add(layer)
        if retrying := _RETRYING.match(status):
            left_s = int(retrying[1])
            if left_s > self.countdown.get(layer, 0):  # each pause is longer than the one before
                self.tries[layer] = self.tries.get(layer, 0) + 1
            self.countdown[layer] = left_s if left_s > 1 else 0

    @property
    def docker_is_at_work(self) -> bool:
        return any(status in _LOCAL for status in self.last.values())

    @property
    def hopeless(self) -> str | None:
        """A layer that Docker could not begin to download, however often it tried."""
        for layer, tries in self.tries.items():
            if tries >= _MOST_TRIES and layer not in self.received:
                return layer
        return None


@dataclass(frozen=True, slots=True)
class PullTimeout:
    """``received``: how many bytes have reached the engine so far, where that is known."""

    silence_s: float = 120.0
    received: Callable[[], int | None] = nothing_known

    @contextlib.asynccontextmanager
    async def waiting(self, reference: str) -> AsyncIterator[Callable[[Message], None]]:
        """Call what it gives with Docker's messages; ``RegistryUnavailable`` when it is enough."""
        loop, layers = asyncio.get_running_loop(), Layers()

        try:
            async with asyncio.timeout(self.silence_s) as limit:

                def go_on() -> None:
                    if not limit.expired():
                        limit.reschedule(loop.time() + self.silence_s)

                def heard(message: Message) -> None:
                    layers.heard(message)
                    if (layer := layers.hopeless) is not None:
                        raise registry_unavailable(
                            reference, f"{layer} was asked for {_MOST_TRIES} times, in vain"
                        )
                    go_on()

                looking = asyncio.create_task(self._look(layers, go_on))
                try:
                    yield heard
                finally:
                    await end(looking)
        except TimeoutError as error:
            raise registry_unavailable(
                reference, f"the registry has said nothing for {self.silence_s:g} s"
            ) from error

    async def _look(self, layers: Layers, go_on: Callable[[], None]) -> None:
        before = self.received()
        while True:
            await asyncio.sleep(self.silence_s / _LOOKS)
            now = self.received()
            came = now is not None and before is not None and now - before >= _LEAST_BYTES
            if came or layers.docker_is_at_work:
                go_on()
            before = now
