"""What the manager offers to the API: one protocol a noun, implemented by the use cases.

All methods raise errors of ``warmboot.model.errors``. Work that takes longer than a moment is begun
and goes on after the call returns; its progress is told by the thing's state and by events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from warmboot.model.container import Container, ContainerSpec
from warmboot.model.event import Event
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.shapes import Shape


class Until(StrEnum):
    """What a ``wait`` waits for. All of them end early when the container has failed or is gone.

    ``booted``: Docker in its VM has answered. ``running``: its process was started (or has even
    ended). ``exited``: its process has ended.
    """

    BOOTED = "booted"
    RUNNING = "running"
    EXITED = "exited"


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class LogChunk:
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run in a running container, as ``docker exec``."""

    command: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    environment: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""


class Session(Protocol):
    """An attached process: an exec, or the container's own."""

    def __aiter__(self) -> AsyncIterator[LogChunk]:
        """Its output, until it ends."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...

    async def resize(self, rows: int, columns: int) -> None: ...

    async def exit_code(self) -> int | None:
        """Its exit code, once the output has ended."""
        ...

    async def close(self) -> None: ...


class RuntimeImages(Protocol):
    async def register(
        self,
        *,
        name: str,
        path: Path | None = None,
        kernel: Path | None = None,
        rootfs: Path | None = None,
        initrd: Path | None = None,
    ) -> RuntimeImage:
        """Take over an image folder (``path``), or bare files; the same files: the same image."""
        ...

    async def list(self) -> Sequence[RuntimeImage]: ...

    async def get(self, image_id: UUID) -> RuntimeImage: ...

    async def delete(self, image_id: UUID) -> None: ...


class RuntimeSnapshots(Protocol):
    async def create(self, runtime_image_id: UUID, shape: Shape | None) -> UUID:
        """Begin to build one, beside any that are there."""
        ...

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]: ...

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot: ...

    async def delete(self, snapshot_id: UUID) -> None:
        """Mark as deleted; its files go once no VM maps them."""
        ...

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        """Begin to build its successor; the old one serves until that is ready. The new id."""
        ...


class Containers(Protocol):
    async def create(self, spec: ContainerSpec) -> UUID: ...

    async def list(self, *, all_states: bool = False) -> Sequence[Container]: ...

    async def get(self, ref: str) -> Container:
        """By id, unique beginning of an id, or name."""
        ...

    async def wait(self, ref: str, until: Until, timeout_s: float) -> Container:
        """The container as it is when ``until`` holds or the time is over."""
        ...

    async def start(self, ref: str) -> None: ...

    async def stop(self, ref: str, timeout_s: float) -> None: ...

    async def restart(self, ref: str, timeout_s: float) -> None: ...

    async def delete(self, ref: str, *, force: bool = False) -> None: ...

    def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None, timestamps: bool = False
    ) -> AsyncIterator[LogChunk]: ...

    async def exec(self, ref: str, spec: ExecSpec) -> Session: ...

    async def attach(self, ref: str) -> Session: ...


class Archives(Protocol):
    """Local image archives (``docker save`` or OCI), uploaded before the container that uses it."""

    async def upload(self, chunks: AsyncIterator[bytes]) -> str:
        """Store an archive; its id is its SHA-256. Kept until it was unused for a day."""
        ...


class Events(Protocol):
    async def list(self, after: int = 0, limit: int = 100) -> Sequence[Event]: ...

    def follow(self, after: int | None = None) -> AsyncIterator[Event]:
        """Events as they happen, ``after`` an id or (None) from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``warmboot doctor``."""

    name: str
    ok: bool
    summary: str
    why: str = ""
    remedy: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class HostInfo:
    version: str
    hypervisor: str
    hypervisor_version: str
    accelerator: str
    storage_root: Path
    default_shape: Shape
    checks: tuple[Check, ...] = field(default=())


class System(Protocol):
    async def info(self) -> HostInfo: ...

    async def doctor(self) -> Sequence[Check]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the API may call."""

    images: RuntimeImages
    snapshots: RuntimeSnapshots
    containers: Containers
    archives: Archives
    events: Events
    system: System
