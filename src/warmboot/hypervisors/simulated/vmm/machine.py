"""The simulated machine: its RAM and its clock.

``ram`` is a JSON object, so that it can be saved at any moment: all that the guest knows is in it.
The clock is the guest's uptime and stands still while the machine is paused, or has stalled for
want of room on the host's disk::

    running ⇄ paused
    running ──write──▶ stalled ──resume──▶ running
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.vmm.snapshot import SavedMachine, differing

COUNTER_OPTION = "simulated.counter"
COUNTER_PERIOD_S = 0.02


class GuestClock:
    """Seconds since the guest's boot; stops while paused.

    The machine's own tasks wait for it with ``running`` and ``sleep_until``, the threads of the
    guest's agent with ``wait``.
    """

    def __init__(self, uptime_s: float) -> None:
        self._uptime_s = uptime_s
        self._since: float | None = time.monotonic()
        self._running = asyncio.Event()
        self._paused = asyncio.Event()
        self._threads_run = threading.Event()
        self._running.set()
        self._threads_run.set()

    @property
    def paused(self) -> bool:
        return self._since is None

    def now(self) -> float:
        passed = 0.0 if self._since is None else time.monotonic() - self._since
        return self._uptime_s + passed

    def pause(self) -> None:
        self._uptime_s, self._since = self.now(), None
        self._threads_run.clear()
        self._running.clear()
        self._paused.set()

    def resume(self) -> None:
        if self._since is None:
            self._since = time.monotonic()
        self._paused.clear()
        self._running.set()
        self._threads_run.set()

    def wait(self) -> None:
        """Return at once unless paused."""
        self._threads_run.wait()

    async def running(self) -> None:
        await self._running.wait()

    async def sleep_until(self, uptime_s: float) -> None:
        while (left := uptime_s - self.now()) > 0:
            await self.running()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._paused.wait()
        await self.running()


class Machine:
    """RAM, clock and faults of one VM."""

    def __init__(
        self,
        config: SimulatedConfig,
        shape: tuple[int, int],
        cmdline: str,
        saved: SavedMachine | None,
    ) -> None:
        self._config = config
        self.shape = shape
        self.origin = "boot" if saved is None else "restore"
        self._mapped = saved.mapped if saved else None
        self.clock = GuestClock(saved.clock_s if saved else 0.0)
        self.ram = _fresh_ram(cmdline) | (saved.ram if saved else {})
        self.stalled = asyncio.Event()

    @property
    def config(self) -> SimulatedConfig:
        """The config of this moment: overrides may have changed. A bad overrides file
        changes nothing.
        """
        try:
            return self._config.current()
        except ValueError:
            return self._config

    @property
    def agent_silent(self) -> bool:
        return self.config.agent_silent.applies(self.origin)

    @property
    def docker_ready_at(self) -> float:
        """The guest's uptime at which Docker is ready; infinite if it never is."""
        config = self.config
        if config.docker_never_ready.applies(self.origin):
            return float("inf")
        return config.boot_s + config.docker_s

    def docker_ready(self) -> bool:
        return self.clock.now() >= self.docker_ready_at

    @property
    def status(self) -> str:
        if self.stalled.is_set():
            return "stalled"
        return "paused" if self.clock.paused else "running"

    async def write(self) -> None:
        """The guest writes to its disk: the whole machine waits until the host has room."""
        await self.clock.running()
        while self.config.disk_full.applies(self.origin):
            self.clock.pause()
            self.stalled.set()
            await self.clock.running()

    def resume(self) -> None:
        self.stalled.clear()
        self.clock.resume()

    def saved(self) -> SavedMachine:
        return SavedMachine(self.config.version, self.shape, self.clock.now(), self.ram)

    def own_pages(self, memory: Path) -> list[tuple[int, int]] | None:
        """Which of the saved pages are not as in the memory that it was restored from."""
        return None if self._mapped is None else differing(memory.read_bytes(), self._mapped)

    async def count(self, serial_log: Path) -> None:
        """Count in RAM and print each number, if ``simulated.counter`` is on the command line."""
        if COUNTER_OPTION not in self.ram["cmdline"].split():
            return
        with serial_log.open("a", buffering=1) as serial:
            while True:
                await self.clock.sleep_until(self.clock.now() + COUNTER_PERIOD_S)
                self.ram["counter"] += 1
                serial.write(f"{self.ram['counter']}\n")


def _fresh_ram(cmdline: str) -> dict[str, Any]:
    return {
        "boot_value": secrets.token_hex(16),
        "cmdline": cmdline,
        "counter": 0,
        "hostname": "warmboot",
        "entropy": "",
        "clock_ns": 0,
        "files": {},
        "firewall": [],
        "engine_id": secrets.token_hex(16),
        "images": {},
        "containers": {},
        "execs": {},
        "events": [],
    }
