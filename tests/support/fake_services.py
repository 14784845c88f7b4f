"""The manager's services, in memory: the same states, the same errors, no VM.

What a fake container does is written in its command, as a tiny shell would read it:

    (none), sleep …      runs until it is stopped
    echo WORDS…          writes a line and exits with 0
    err WORDS…           the same, on stderr
    exit N               exits with N
    missing              is not there: the container fails
    cat                  gives back its input until that ends
    sh                   a terminal's echo: see ``FakeSession``
    ticks N              writes N lines, one at a time
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals
from typing import Any
from uuid import UUID, uuid4

from tests.support.fake_workers import FakeWorkers

from warmboot.manager.ports import (
    Check,
    ExecSpec,
    HostInfo,
    LogChunk,
    Registered,
    Services,
    Stream,
    Until,
)
from warmboot.model.container import (
    CONTAINER_TRANSITIONS,
    BootMethod,
    BootPolicy,
    Container,
    ContainerSpec,
    FallbackReason,
    StageStep,
    StageTiming,
)
from warmboot.model.container import ContainerState as S
from warmboot.model.errors import (
    CommandNotFound,
    Conflict,
    ContainerError,
    IllegalTransition,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    WarmbootError,
)
from warmboot.model.garbage import Collection, Garbage
from warmboot.model.journal.event import Event
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import (
    SNAPSHOT_TRANSITIONS,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotState,
)
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit, fit_of
from warmboot.model.usage import BootSummary, OwnedVm, StorageUsage, Usage, VmUsage
from warmboot.model.vm import VmKind

DEFAULT_SHAPE = Shape(2, 1024)


def now() -> datetime:
    return datetime.now(UTC)


class FakeEvents:
    """``endless = False`` ends a ``follow`` when it has caught up (for generated requests)."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.endless = True
        self._news = asyncio.Condition()

    def add(self, kind: str, subject: object, **data: object) -> None:
        self.all.append(Event(len(self.all) + 1, now(), kind, str(subject), data))
        self._wake = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def list(self, after: int = 0, limit: int = 100) -> Sequence[Event]:
        return [event for event in self.all if event.id > after][:limit]

    async def follow(self, after: int | None = None) -> AsyncIterator[Event]:
        seen = len(self.all) if after is None else min(after, len(self.all))
        while True:
            while seen < len(self.all):
                seen += 1
                yield self.all[seen - 1]
            if not self.endless:
                return
            async with self._news:
                while seen == len(self.all):
                    await self._news.wait()


class FakeImages:
    def __init__(self, events: FakeEvents) -> None:
        self.rows: dict[UUID, RuntimeImage] = {}
        self.used_by: set[UUID] = set()
        self.snapshots: FakeSnapshots | None = None
        """Set where registering an image is to begin its snapshot."""
        self._events = events

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
        image = await self._register(name, path or kernel)
        if build_snapshot is False or self.snapshots is None:
            return Registered(image, note="no snapshot was asked for")
        for row in self.snapshots.rows.values():
            if row.runtime_image_id == image.id:
                return Registered(image, row.id)
        return Registered(image, await self.snapshots.create(image.id, None), begun=True)

    async def _register(self, name: str, found: Path | None) -> RuntimeImage:
        if found is None or not await asyncio.to_thread(found.exists):
            raise InvalidRequest(
                f"{found} is not there", resolution="build one with: warmboot runtime build"
            )
        digest = "sha256:" + hashlib.sha256(str(found).encode()).hexdigest()
        for image in self.rows.values():
            if image.digest == digest:
                return image
            if image.name == name:
                raise NameTaken(f"there is a runtime image {name!r}")
        sums = {"kernel": FileSum(9_000_000, "ab" * 32), "rootfs": FileSum(480_000_000, "cd" * 32)}
        manifest = RuntimeImageManifest(digest, sums, "console=hvc0 root=/dev/vda", "1")
        image = RuntimeImage(uuid4(), name, digest, found, manifest, now())
        self.rows[image.id] = image
        self._events.add("runtime-image.registered", image.id)
        return image

    async def list(self) -> Sequence[RuntimeImage]:
        return list(self.rows.values())

    async def get(self, image_id: UUID) -> RuntimeImage:
        try:
            return self.rows[image_id]
        except KeyError:
            raise NotFound(
                f"no runtime image {image_id}", resolution="list them with: warmboot runtime ls"
            ) from None

    async def delete(self, image_id: UUID) -> None:
        await self.get(image_id)
        if image_id in self.used_by:
            raise InUse("the runtime image has snapshots", resolution="remove those first")
        del self.rows[image_id]


class FakeSnapshots:
    def __init__(self, events: FakeEvents, images: FakeImages) -> None:
        self.rows: dict[UUID, RuntimeSnapshot] = {}
        self.leased: set[UUID] = set()
        self.build_s = 0.02
        self.build_fails: WarmbootError | None = None
        self._events, self._images = events, images
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(
        self, runtime_image_id: UUID, shape: Shape | None, replaces: UUID | None = None
    ) -> UUID:
        image = await self._images.get(runtime_image_id)
        self._images.used_by.add(image.id)
        snapshot = RuntimeSnapshot(
            id=uuid4(),
            runtime_image_id=image.id,
            snapshot_path=Path(f"/srv/fc/runtime-snapshots/{image.id}"),
            state=SnapshotState.CREATING,
            hypervisor="simulated",
            fc_version="1.0",
            shape=shape or DEFAULT_SHAPE,
            created_at=now(),
            replaces=replaces,
            version=1 + sum(row.runtime_image_id == image.id for row in self.rows.values()),
        )
        self.rows[snapshot.id] = snapshot
        self._events.add("runtime-snapshot.creating", snapshot.id)
        task = asyncio.create_task(self._build(snapshot.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return snapshot.id

    async def _build(self, snapshot_id: UUID) -> None:
        await asyncio.sleep(self.build_s)
        row = self.rows[snapshot_id]
        if row.state is SnapshotState.CREATING and self.build_fails is not None:
            error = self.build_fails.as_dict()
            self.rows[snapshot_id] = replace(row, state=SnapshotState.UNHEALTHY, error=error)
            self._events.add("runtime-snapshot.failed", snapshot_id, error=error)
            if row.replaces is not None:  # deleted, and collected at once
                del self.rows[snapshot_id]
        elif row.state is SnapshotState.CREATING:
            sizes = {"size_bytes": 900_000_000, "mem_size_bytes": 512_000_000, "compressed": False}
            self.rows[snapshot_id] = replace(row, state=SnapshotState.READY, metadata=sizes)
            self._events.add("runtime-snapshot.ready", snapshot_id)

    async def list(self, *, include_deleted: bool = False) -> Sequence[RuntimeSnapshot]:
        return [
            row
            for row in self.rows.values()
            if include_deleted or row.state is not SnapshotState.DELETED
        ]

    async def get(self, snapshot_id: UUID) -> RuntimeSnapshot:
        try:
            return self.rows[snapshot_id]
        except KeyError:
            raise NotFound(
                f"no runtime snapshot {snapshot_id}",
                resolution="list them with: warmboot snapshot ls",
            ) from None

    async def delete(self, snapshot_id: UUID) -> None:
        row = await self.get(snapshot_id)
        SNAPSHOT_TRANSITIONS.check(row.state, SnapshotState.DELETED)
        self.rows[snapshot_id] = replace(row, state=SnapshotState.DELETED)
        self._events.add("runtime-snapshot.deleted", snapshot_id)

    async def set_traits(
        self, snapshot_id: UUID, *, weight: float | None = None, pinned: bool | None = None
    ) -> RuntimeSnapshot:
        row = await self.get(snapshot_id)
        if row.state is SnapshotState.DELETED:
            raise Conflict("the snapshot was deleted", resolution="create another one")
        changed = replace(
            row,
            weight=row.weight if weight is None else weight,
            pinned=row.pinned if pinned is None else pinned,
        )
        self.rows[snapshot_id] = changed
        return changed

    async def fit(self, snapshot: RuntimeSnapshot) -> Fit:
        return fit_of(snapshot, HostRequirements("simulated", "1.0", "none", "simulated", "any"))

    async def rebuild(self, snapshot_id: UUID) -> UUID:
        row = await self.get(snapshot_id)
        if row.state is SnapshotState.DELETED:
            raise Conflict("the snapshot is deleted", resolution="create another one")
        return await self.create(row.runtime_image_id, row.shape, replaces=row.id)


class FakeSession:
    """Echoes its input. As a terminal: ``exit N`` ends it, ``size`` tells it, NUL is kept."""

    def __init__(self, command: tuple[str, ...], *, tty: bool, greeting: bytes = b"") -> None:
        self.tty, self.closed = tty, False
        self.size: tuple[int, int] | None = None
        self._out: asyncio.Queue[LogChunk | None] = asyncio.Queue()
        self._code: int | None = None
        self.over = asyncio.Event()
        self.of: UUID | None = None
        """The container whose own process it is."""
        self._line = b""
        self._interactive = command[0] in ("sh", "cat")
        if greeting:
            self._say(greeting)
        if self._interactive:
            if tty:
                self._say(b"$ ")
        else:
            chunk, code = run_command(command)
            if chunk:
                self._out.put_nowait(chunk)
            self.end(code)

    def _say(self, data: bytes) -> None:
        self._out.put_nowait(LogChunk(Stream.STDOUT, data))

    def end(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._out.put_nowait(None)
            self.over.set()

    async def __aiter__(self) -> AsyncIterator[LogChunk]:
        while (chunk := await self._out.get()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        if not self.tty:
            self._say(data)
            return
        for byte in data:
            char = bytes((byte,))
            if char == b"\x04":
                self.end(0)
            elif char == b"\r":
                self._say(b"\r\n")
                self._read_line(self._line.decode("utf-8", "replace").split())
                self._line = b""
            else:
                self._line += char
                self._say(char)

    def _read_line(self, words: list[str]) -> None:
        if words[:1] == ["exit"]:
            self.end(int(words[1]) if words[1:] else 0)
            return
        if words[:1] == ["size"]:
            self._say(f"{self.size}\r\n".encode())
        self._say(b"$ ")

    async def write_eof(self) -> None:
        self.end(0)

    async def resize(self, rows: int, columns: int) -> None:
        self.size = (rows, columns)

    async def exit_code(self) -> int | None:
        return self._code

    async def close(self) -> None:
        self.closed = True
        self.over.set()


def run_command(command: tuple[str, ...]) -> tuple[LogChunk | None, int]:
    words = " ".join(command[1:]).encode() + b"\n"
    match command[0]:
        case "echo":
            return LogChunk(Stream.STDOUT, words), 0
        case "err":
            return LogChunk(Stream.STDERR, words), 0
        case "exit":
            return None, int(command[1])
        case _:
            return LogChunk(Stream.STDERR, f"{command[0]}: not found\n".encode()), 127


class FakeContainers:
    def __init__(self, events: FakeEvents, archives: FakeArchives) -> None:
        self.rows: dict[UUID, Container] = {}
        self.output: dict[UUID, list[LogChunk]] = {}
        self.sessions: list[FakeSession] = []
        self.stage_s = 0.005
        self.tick_s = 0.02
        self.longest_wait_s = 3600.0
        self.fail_creation: Exception | None = None
        self.removed: list[UUID] = []
        self.gone: dict[UUID, Container] = {}
        self.signals: list[str | None] = []
        self.execs: list[ExecSpec] = []
        self.asked_times: tuple[datetime | None, datetime | None] = (None, None)
        self._readers: Counter[UUID] = Counter()
        self._events, self._archives = events, archives
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def _set(self, container_id: UUID, state: S, **more: Any) -> None:
        row = self.rows[container_id]
        CONTAINER_TRANSITIONS.check(row.state, state)
        row = replace(row, state=state, **more)
        self.rows[container_id] = row
        data: dict[str, Any] = {"name": row.name}
        if state is S.EXITED:
            data["exit_code"] = row.exit_code
        self._events.add(f"container.{state}", container_id, **data)
        async with self._changed:
            self._changed.notify_all()

    async def create(self, spec: ContainerSpec) -> UUID:
        if self.fail_creation is not None:
            raise self.fail_creation
        if any(row.name == spec.name for row in self.rows.values()):
            raise NameTaken(
                f"there is a container {spec.name!r}",
                resolution=f"remove it with: warmboot rm {spec.name}",
            )
        if spec.archive is not None and spec.archive not in self._archives.kept:
            raise NotFound(f"no archive {spec.archive}", resolution="upload it first")
        row = Container(uuid4(), spec, S.CREATING, now(), spec.shape or DEFAULT_SHAPE)
        self.rows[row.id] = row
        self.output[row.id] = []
        self._events.add("container.creating", row.id, name=spec.name)
        self._begin(self._boot(row.id))
        return row.id

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _boot(self, container_id: UUID) -> None:
        spec = self.rows[container_id].spec
        cold = spec.boot is BootPolicy.COLD
        stages = []
        names = ["boot" if cold else "restore", "identity", "docker", "pull", "create", "start"]
        for number, name in enumerate(names):
            self._events.add("container.stage", container_id, stage=name)
            if name == "pull":
                for done in (1_000_000, 4_000_000):
                    self._events.add(
                        "container.pull", container_id, bytes=done, total_bytes=4_000_000
                    )
            await asyncio.sleep(self.stage_s)
            steps = (StageStep("clock", 0.0001),) if name == "identity" else ()
            stages.append(StageTiming(name, number * self.stage_s, self.stage_s, steps))
        if spec.image.startswith("missing"):
            error = ContainerError(
                f"the image {spec.image} does not exist",
                details="the registry answered: manifest unknown",
                resolution="check the name and the tag",
            )
            await self._set(container_id, S.FAILED, error=error.as_dict(), finished_at=now())
            return
        if spec.command and spec.command[0] == "missing":
            refused = CommandNotFound("the image has no program 'missing'", details="exec: …")
            await self._set(container_id, S.FAILED, error=refused.as_dict(), finished_at=now())
            return
        ports = tuple(
            replace(port, host_port=port.host_port or 40_000 + number)
            for number, port in enumerate(spec.ports)
        )
        await self._set(
            container_id,
            S.RUNNING,
            started_at=now(),
            boot_method=BootMethod.COLD if cold else BootMethod.WARM,
            fallback_reason=FallbackReason.REQUESTED if cold else None,
            stages=tuple(stages),
            boot_s=0.5,
            ports=ports,
            vm_id=f"vm-{container_id.hex[:8]}",
            docker_id=container_id.hex * 2,
        )
        await self._run(container_id, spec.command or ("sleep",))

    async def _run(self, container_id: UUID, command: tuple[str, ...]) -> None:
        if command[0] in ("sleep", "sh", "cat"):
            return
        if command[0] == "ticks":
            for number in range(int(command[1])):
                await asyncio.sleep(self.tick_s)
                line = f"tick {number}\n".encode()
                self.output[container_id].append(LogChunk(Stream.STDOUT, line))
            await self._exit(container_id, 0)
            return
        chunk, code = run_command(command)
        if chunk:
            self.output[container_id].append(chunk)
        await self._exit(container_id, code)

    async def _exit(self, container_id: UUID, code: int) -> None:
        await self._set(container_id, S.EXITED, exit_code=code, finished_at=now())
        if self.rows[container_id].spec.auto_remove:
            self._begin(self._remove_when_read(container_id))

    async def _remove_when_read(self, container_id: UUID) -> None:
        ended = self.rows[container_id]
        await asyncio.sleep(0.5)
        while self._readers[container_id]:  # noqa: ASYNC110 - readers come and go
            await asyncio.sleep(0.005)
        if self.rows.get(container_id) is ended:
            await self._remove(container_id)

    async def _remove(self, container_id: UUID) -> None:
        self.gone[container_id] = self.rows[container_id]
        await self._set(container_id, S.DELETING)
        del self.rows[container_id]
        self.removed.append(container_id)
        self._events.add("container.deleted", container_id)
        async with self._changed:
            self._changed.notify_all()

    async def list(self, *, all_states: bool = False) -> Sequence[Container]:
        return [row for row in self.rows.values() if all_states or row.state is S.RUNNING]

    async def get(self, ref: str) -> Container:
        matches = [row for row in self.rows.values() if ref in (str(row.id), row.name)]
        if not matches:
            wanted = ref.lower()
            matches = [
                row
                for row in self.rows.values()
                if str(row.id).startswith(wanted) or row.id.hex.startswith(wanted)
            ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Conflict(f"{ref} is the beginning of several ids", resolution="give more of it")
        raise NotFound(f"no container {ref}", resolution="list them with: warmboot ps -a")

    async def wait(self, ref: str, until: Until, timeout_s: float) -> Container:
        with contextlib.suppress(NotFound):
            ref = str((await self.get(ref)).id)
        row = self.gone[UUID(ref)] if ref in map(str, self.gone) else await self.get(ref)
        holds = {
            Until.BOOTED: {S.RUNNING, S.EXITED},
            Until.RUNNING: {S.RUNNING, S.EXITED},
            Until.EXITED: {S.EXITED},
        }[until] | {S.FAILED, S.DELETING}

        def done() -> bool:
            nonlocal row
            row = self.rows.get(row.id, row)
            return row.id not in self.rows or row.state in holds

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, self.longest_wait_s)), self._changed:
                await self._changed.wait_for(done)
        return row

    async def start(self, ref: str) -> None:
        row = await self.get(ref)
        if row.state is S.FAILED:
            await self._set(row.id, S.CREATING, error=None)
            self._begin(self._boot(row.id))
            return
        await self._set(row.id, S.RUNNING, exit_code=None, started_at=now())
        self._begin(self._run(row.id, row.spec.command or ("sleep",)))

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        row = await self.get(ref)
        if row.state in (S.EXITED, S.FAILED):
            return
        CONTAINER_TRANSITIONS.check(row.state, S.EXITED)
        self.signals.append(signal)
        await self._end(row.id, signal or row.spec.stop_signal or "SIGTERM")

    async def _end(self, container_id: UUID, signal: str) -> None:
        code = 128 + int(signal if signal.isdigit() else Signals[signal])
        for session in self.sessions:
            if session.of == container_id:
                session.end(code)
                return  # whoever follows it sees to the exit
        await self._exit(container_id, code)

    async def kill(self, ref: str, signal: str) -> None:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"the container {row.name} is not running")
        self.signals.append(signal)
        await self._end(row.id, signal)

    async def restart(self, ref: str, timeout_s: float | None = None) -> None:
        await self.stop(ref, timeout_s)
        await self.start(ref)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        row = await self.get(ref)
        if row.state in (S.RUNNING, S.CREATING) and not force:
            raise InUse(
                f"the container {row.name} is {row.state}",
                resolution=f"stop it first (warmboot stop {row.name}), or remove it with --force",
            )
        await self._remove(row.id)

    async def boot_log(self, ref: str) -> bytes:
        await self.get(ref)
        return b"Linux version 6.12\r\nbooted\n"

    async def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[LogChunk]:
        row = await self.get(ref)
        self.asked_times = (since, until)
        self._readers[row.id] += 1
        try:
            async for chunk in self._logs(row, follow, tail, timestamps):
                yield chunk
        finally:
            self._readers[row.id] -= 1

    async def _logs(
        self, row: Container, follow: bool, tail: int | None, timestamps: bool
    ) -> AsyncIterator[LogChunk]:
        written = self.output[row.id]
        seen = 0 if tail is None else max(0, len(written) - tail)
        while True:
            ended = row.id not in self.rows or self.rows[row.id].state in (S.EXITED, S.FAILED)
            while seen < len(written):
                chunk = written[seen]
                stamp = b"2026-01-24T12:00:00.000000000Z " if timestamps else b""
                yield LogChunk(chunk.stream, stamp + chunk.data)
                seen += 1
            if not follow or ended:
                return
            await asyncio.sleep(0.005)

    async def exec(self, ref: str, spec: ExecSpec) -> FakeSession:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(
                f"the container {row.name} is not running",
                resolution=f"start it with: warmboot start {row.name}",
            )
        self.execs.append(spec)
        if spec.detach:
            return FakeSession(("exit", "0"), tty=False)
        greeting = "".join(f"{entry}\n" for entry in spec.environment).encode()
        session = FakeSession(spec.command, tty=spec.tty, greeting=greeting)
        self.sessions.append(session)
        return session

    async def attach(self, ref: str, *, logs: bool = True) -> FakeSession:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"the container {row.name} is not running")
        command = row.spec.command or ("sh",)
        session = FakeSession(
            ("cat",) if command[0] in ("sleep", "ticks") else command, tty=row.spec.tty
        )
        session.of = row.id
        self.sessions.append(session)
        self._begin(self._follow_session(row.id, session))
        return session

    async def _follow_session(self, container_id: UUID, session: FakeSession) -> None:
        await session.over.wait()
        code = await session.exit_code()
        if code is not None and self.rows[container_id].state is S.RUNNING:
            await self._exit(container_id, code)


class FakeArchives:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def upload(self, chunks: AsyncIterator[bytes], size_bytes: int | None = None) -> str:
        data = b"".join([chunk async for chunk in chunks])
        if not data:
            raise InvalidRequest("the archive is empty", resolution="make one with docker save")
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return digest


class FakeSystem:
    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.cpu_s = 0.0
        self.error: Exception | None = None
        self.checks: tuple[Check, ...] = (
            Check("kernel", True, "Linux 6.18"),
            Check("kvm", False, "this machine cannot run KVM guests",
                  why="the CPU flags show neither vmx nor svm",
                  remedy="nothing: QEMU emulates (TCG), which is slower", required=False),
            Check("qemu", True, "QEMU 10.0.2"),
        )  # fmt: skip

    async def info(self) -> HostInfo:
        if self.error is not None:
            raise self.error
        return HostInfo(
            "0.1.0", "simulated", "1.0", "none", Path("/srv/fc"), DEFAULT_SHAPE, checks=self.checks
        )

    async def usage(self, window_s: float) -> Usage:
        """A VM for every container that runs; each look finds 0.1 s of processor time more."""
        self.cpu_s += 0.1
        running = [c for c in self._containers.rows.values() if c.state is S.RUNNING]
        warm = [c for c in running if c.boot_method is BootMethod.WARM]
        return Usage(
            at=now(),
            window_s=window_s,
            boots={
                BootMethod.WARM: BootSummary(len(warm), 0.5, 0.5) if warm else BootSummary(),
                BootMethod.COLD: BootSummary(),
            },
            vms=tuple(
                OwnedVm(
                    VmUsage(c.vm_id or f"vm-{c.name}", self.cpu_s, 100 << 20, 40 << 20),
                    VmKind.CONTAINER,
                    c.id,
                )
                for c in running
            ),
            storage=StorageUsage(100 << 30, 60 << 30, 1 << 30),
        )

    async def doctor(self) -> Sequence[Check]:
        return self.checks


class FakeForms:
    """At once; ``error`` is told as a real one would be."""

    def __init__(self, events: FakeEvents, snapshots: FakeSnapshots) -> None:
        self.error: WarmbootError | None = None
        self._events, self._snapshots = events, snapshots

    async def compress(self, snapshot_id: UUID) -> None:
        await self._change(snapshot_id, "compress", compressed=True)

    async def unpack(self, snapshot_id: UUID) -> None:
        await self._change(snapshot_id, "unpack", compressed=False)

    async def _change(self, snapshot_id: UUID, verb: str, *, compressed: bool) -> None:
        row = await self._snapshots.get(snapshot_id)
        if row.state is not SnapshotState.READY:
            raise IllegalTransition(f"the snapshot is {row.state}", resolution="wait")
        if self.error is not None:
            error = self.error.as_dict()
            self._events.add(f"runtime-snapshot.{verb}-failed", snapshot_id, error=error)
            return
        form = {"compressed": compressed, "compressed_size_bytes": 1000 if compressed else None}
        self._snapshots.rows[snapshot_id] = replace(row, metadata={**row.metadata, **form})
        self._events.add(f"runtime-snapshot.{verb}ed", snapshot_id)


class FakeGarbage:
    """``waiting`` is what a collection removes, and ``kept`` what it cannot."""

    def __init__(self, events: FakeEvents) -> None:
        self.waiting: tuple[Garbage, ...] = ()
        self.kept: tuple[Garbage, ...] = ()
        self._events = events

    async def collect(self, *, dry_run: bool = False) -> Collection:
        done = Collection(dry_run, self.waiting, self.kept, 0.0 if dry_run else 0.1)
        if not dry_run:
            self.waiting = ()
            self._events.add("garbage.collected", "garbage", removed=len(done.removed))
        return done


class FakeServices:
    """All of them, wired; ``services`` is what ``create_app`` takes."""

    def __init__(self) -> None:
        self.events = FakeEvents()
        self.images = FakeImages(self.events)
        self.snapshots = FakeSnapshots(self.events, self.images)
        self.archives = FakeArchives()
        self.containers = FakeContainers(self.events, self.archives)
        self.forms = FakeForms(self.events, self.snapshots)
        self.garbage = FakeGarbage(self.events)
        self.system = FakeSystem(self.containers)
        self.workers = FakeWorkers(self.events.add)
        self.services = Services(
            images=self.images,
            snapshots=self.snapshots,
            containers=self.containers,
            archives=self.archives,
            events=self.events,
            system=self.system,
            forms=self.forms,
            garbage=self.garbage,
            workers=self.workers,
        )
