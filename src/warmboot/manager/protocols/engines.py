"""The manager's interface for engines."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.tenants.engine import Certificates, Engine, EngineSpec
from warmboot.model.usage import DiskUsage


class EngineUntil(StrEnum):
    """What a ``wait`` for an engine waits for; both end early when it has failed or is gone."""

    RUNNING = "running"
    STOPPED = "stopped"


class Engines(Protocol):
    """Docker engines of one's own. ``ref`` is an id, the unique beginning of one, or a name."""

    async def create(self, spec: EngineSpec) -> UUID:
        """Begin. Its socket is there soon, and keeps those waiting who connect early."""
        ...

    async def list(self) -> Sequence[Engine]: ...

    async def get(self, ref: str) -> Engine: ...

    async def wait(self, ref: str, until: EngineUntil, timeout_s: float) -> Engine: ...

    async def start(self, ref: str) -> None: ...

    async def stop(self, ref: str, timeout_s: float | None = None) -> None:
        """Stop its containers, each with ``timeout_s`` until it is killed, and then its VM."""
        ...

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory; ``Conflict`` unless it runs."""
        ...

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now; ``Conflict`` unless it is paused."""
        ...

    async def park(self, ref: str) -> None:
        """Have its memory on the disk, and no VM; ``Conflict`` unless it runs."""
        ...

    async def wake(self, ref: str) -> None:
        """Have it go on where it was, with the time of now; ``Conflict`` unless it is parked."""
        ...

    async def snapshot(self, ref: str, name: str) -> UUID:
        """Freeze a running engine, which runs on; the snapshot's id, when it is ready."""
        ...

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Engine]:
        """So many engines that go on from this one as it is now; all of them run, or none is."""
        ...

    async def delete(self, ref: str, *, force: bool = False) -> None: ...

    async def log_in(self, ref: str, logins: Sequence[RegistryLogin]) -> None:
        """Have it pull, push and build with these, and no others. They are stored nowhere."""
        ...

    async def boot_log(self, ref: str) -> bytes:
        """What its guest has said on its console since it was booted or restored."""
        ...

    async def certificates(self, ref: str) -> Certificates:
        """What its clients need over TCP. ``NotFound`` for an engine without."""
        ...

    async def renew_certificates(self, ref: str) -> None:
        """Have new ones, and no new connection with the former. ``NotFound`` as above."""
        ...

    async def disk(self, ref: str) -> DiskUsage:
        """What is used of its disk, in the guest and on the host."""
        ...
