"""The manager's interface for the API: one protocol per noun, implemented by the use cases.

All methods raise errors of ``warmboot.model.errors``. Work that takes longer than a moment is begun
and goes on after the call returns; its progress is told by the thing's state and by events.
Elsewhere such protocols are called ports; here a port is one of TCP or UDP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Collection as SetOf
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from prometheus_client import CollectorRegistry, Metric

from warmboot.manager.protocols.container_files import ContainerFiles as ContainerFiles
from warmboot.manager.protocols.engines import Engines as Engines
from warmboot.manager.protocols.engines import EngineUntil as EngineUntil
from warmboot.manager.protocols.workers import Exported as Exported
from warmboot.manager.protocols.workers import Resumed as Resumed
from warmboot.manager.protocols.workers import Workers as Workers
from warmboot.manager.protocols.workers import WorkerUntil as WorkerUntil
from warmboot.model.checkpoint import Checkpoint, CheckpointState
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.conventions.pages import Page, PageRequest
from warmboot.model.garbage import Collection
from warmboot.model.journal.event import Event
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.sessions import ExecSpec, LogChunk
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.usage import PoolStatus, Usage
from warmboot.model.worker import Worker, WorkerState


class Until(StrEnum):
    """What a ``wait`` waits for. All of them end early when the container has failed or is gone.

    ``booted``: Docker in its VM has answered. ``running``: its process was started (or has even
    ended). ``healthy``: its health check says so (it has ended, or has no check). ``exited``: its
    process has ended.
    """

    BOOTED = "booted"
    RUNNING = "running"
    HEALTHY = "healthy"
    EXITED = "exited"


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


@dataclass(frozen=True, slots=True)
class Registered:
    """An image, and the snapshot of the default shape that it has, or why it has none (``note``).

    ``begun``: that snapshot's build was begun by this very registration.
    """

    image: RuntimeImage
    snapshot_id: UUID | None = None
    begun: bool = False
    note: str = ""


class RuntimeImages(Protocol):
    async def register(
        self,
        *,
        name: str,
        path: Path | None = None,
        kernel: Path | None = None,
        rootfs: Path | None = None,
        initrd: Path | None = None,
        build_snapshot: bool | None = None,
    ) -> Registered:
        """Take over a folder, or bare files; the same files are the same image.
        ``build_snapshot=None``: as the settings have it."""
        ...

    async def list(self) -> Sequence[RuntimeImage]: ...

    async def get(self, image_id: UUID) -> RuntimeImage: ...

    async def stored_bytes(self, image: RuntimeImage) -> int: ...

    async def delete(self, image_id: UUID) -> None: ...


class RuntimeSnapshots(Protocol):
    async def create(self, runtime_image_id: UUID, shape: Shape | None) -> UUID:
        """Begin to build another version, beside any that are there.

        If one of this image and shape is being made already, that one's id.
        """
        ...

    async def prepare_image(
        self, reference: str, runtime_image_id: UUID | None, shape: Shape | None
    ) -> UUID:
        """Begin to build one with an image of a registry in it, from which its containers start.

        If one is being made already, that one's id; one that is there serves until then.
        """
        ...

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]: ...

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot: ...

    async def delete(self, snapshot_id: UUID) -> None:
        """Mark as deleted; its files go once no VM maps them."""
        ...

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        """Begin to build its successor; the old one serves until that is ready. The new id."""
        ...

    async def set_traits(
        self, snapshot_id: UUID, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        """How often it is chosen among its versions, and whether it may be collected."""
        ...

    async def fit(self, snapshot: RuntimeSnapshot) -> Fit:
        """Whether it can be used on this host as it is now, and why not."""
        ...


class Containers(Protocol):
    async def create(
        self, spec: ContainerSpec, *, attach: bool = False, start: bool = True
    ) -> UUID:
        """Begin. ``attach``: it is not started before a client has attached to it. Without
        ``start`` it is only noted: nothing is booted before it is started.
        """
        ...

    async def list(self, *, all_states: bool = False) -> Sequence[Container]: ...

    async def get(self, ref: str) -> Container:
        """By id, unique beginning of an id, or name."""
        ...

    async def wait(self, ref: str, until: Until, timeout_s: float) -> Container:
        """The container as it is when ``until`` holds or the time is over."""
        ...

    async def start(self, ref: str) -> None: ...

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        """Send ``signal``, and SIGKILL when it still runs after ``timeout_s``.

        ``None``: what its spec says, or SIGTERM and ten seconds.
        """
        ...

    async def kill(self, ref: str, signal: str) -> None:
        """Send ``signal`` to its process; only SIGKILL is waited for."""
        ...

    async def pause(self, ref: str) -> None:
        """Have its VM stand still in memory; ``Conflict`` unless it runs."""
        ...

    async def unpause(self, ref: str) -> None:
        """Have it go on where it was, with the time of now; ``Conflict`` unless it is paused."""
        ...

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Container]:
        """So many that go on from this one as it is now; all of them come up, or none is."""
        ...

    async def park(self, ref: str) -> None:
        """Have its memory on the disk, and no VM; ``Conflict`` unless it runs."""
        ...

    async def wake(self, ref: str) -> None:
        """Have it go on where it was, with the time of now; ``Conflict`` unless it is parked."""
        ...

    async def restart(self, ref: str, timeout_s: float | None = None) -> None: ...

    async def delete(self, ref: str, *, force: bool = False) -> None: ...

    async def rename(self, ref: str, name: str) -> Container:
        """Give it another name; its host name stays. ``NameTaken``."""
        ...

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[LogChunk]: ...

    async def boot_log(self, ref: str) -> bytes:
        """What its VM's guest has said on its console since it was booted or restored."""
        ...

    async def exec(self, ref: str, spec: ExecSpec) -> Session: ...

    async def attach(self, ref: str, *, logs: bool = True, start: bool = False) -> Session:
        """Its own process; ``logs``: what it has written before comes first.

        One that is being created is waited for. ``start``: one that does not run is started when
        the client is attached.
        """
        ...


class Archives(Protocol):
    """Local image archives (``docker save`` or OCI), uploaded before the container that uses it."""

    async def upload(self, chunks: AsyncIterator[bytes], size_bytes: int | None = None) -> str:
        """Store an archive; its id is its SHA-256. Kept until it was unused for a day."""


class Events(Protocol):
    async def list(
        self, after: int = 0, limit: int = 100, kinds: SetOf[str] = ()
    ) -> Sequence[Event]: ...

    def follow(self, after: int | None = None, kinds: SetOf[str] = ()) -> AsyncIterator[Event]:
        """Events as they happen, ``after`` an id or (None) from now on; of ``kinds`` or all."""


class Metrics(Protocol):
    """What ``/metrics`` shows."""

    @property
    def registry(self) -> CollectorRegistry:
        """What is counted as it happens."""
        ...

    async def collect(self) -> Sequence[Metric]:
        """What is there at the moment: states, sizes, ages."""
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
    warm_pool: PoolStatus = field(default_factory=PoolStatus)
    checks: tuple[Check, ...] = field(default=())


class SnapshotForms(Protocol):
    """How a ready snapshot's memory is stored; both methods only begin."""

    async def compress(self, snapshot_id: UUID) -> None: ...

    async def unpack(self, snapshot_id: UUID) -> None: ...


class GarbageCollector(Protocol):
    async def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove all that may go; or, in a dry run, only say what that is."""
        ...


class System(Protocol):
    async def info(self) -> HostInfo: ...

    async def usage(self, window_s: float) -> Usage:
        """What VMs and disk use at the moment, and the boots of the last ``window_s`` seconds."""
        ...

    async def doctor(self) -> Sequence[Check]: ...


class Pages(Protocol):
    """The lists, part by part: things in ``states`` (``None``: any) that ``keep`` wants."""

    async def containers(
        self,
        wanted: PageRequest,
        states: SetOf[ContainerState] | None,
        keep: Callable[[Container], bool],
    ) -> Page[Container]: ...

    async def engines(
        self,
        wanted: PageRequest,
        states: SetOf[EngineState] | None,
        keep: Callable[[Engine], bool],
    ) -> Page[Engine]: ...

    async def workers(
        self,
        wanted: PageRequest,
        states: SetOf[WorkerState] | None,
        keep: Callable[[Worker], bool],
    ) -> Page[Worker]: ...

    async def images(
        self, wanted: PageRequest, keep: Callable[[RuntimeImage], bool]
    ) -> Page[RuntimeImage]: ...

    async def snapshots(
        self, wanted: PageRequest, states: SetOf[SnapshotState] | None, image_id: UUID | None
    ) -> Page[RuntimeSnapshot]: ...

    async def checkpoints(
        self, worker_id: UUID, wanted: PageRequest, states: SetOf[CheckpointState] | None
    ) -> Page[Checkpoint]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the API may call."""

    images: RuntimeImages
    snapshots: RuntimeSnapshots
    containers: Containers
    files: ContainerFiles
    archives: Archives
    events: Events
    system: System
    forms: SnapshotForms
    garbage: GarbageCollector
    pages: Pages
    engines: Engines | None = None
    workers: Workers | None = None
    metrics: Metrics | None = None
