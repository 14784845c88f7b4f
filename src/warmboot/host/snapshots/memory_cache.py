"""Memory that VMs map and that no snapshot stores so: of compressed snapshots, for hypervisors that
need it as a file, and of those that are a difference over a base.

    <root>/<snapshot id>-<content>.mem        mapped private by every VM that was restored from it
    <root>/<snapshot id>-<content>.mem.json   what the file was when it was made; its time is the
                                              last use's
    <root>/<snapshot id>-<content>.mem.new    while it is made

The first boot makes it, however many ask at once; the others wait for it, the next ones find it.
Nothing is synced: a file counts only in the boot of the machine in which it was made, and as long
as its size, inode and times are those that were noted. Removing one is always safe while nobody is
about to open it, as VMs keep their mapping. But it would give nothing back, and the next boot would
unpack a second one: so what a VM maps, which the kernel knows best, is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from uuid import UUID
from weakref import WeakValueDictionary

from warmboot.host.snapshots import memory_frames
from warmboot.host.snapshots.memory_differences import StoredFile, lay_over
from warmboot.hypervisors.process import boot_id
from warmboot.model.runtime_image import FileSum
from warmboot.model.runtime_snapshot import FRAMES_FILE, SnapshotManifest
from warmboot.model.vm import VmHandle
from warmboot.system.concurrency import in_stoppable_thread
from warmboot.system.disks import allocated_bytes, os_error
from warmboot.system.file_stamps import UNFINISHED, stamp
from warmboot.system.usage import mapped_names

_SUFFIX = ".mem"
_CONTENT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One file. ``size_bytes`` is what it takes on disk; ``in_use``: it is being made, about to be
    opened by a VMM, or mapped by one."""

    path: Path
    snapshot_id: UUID
    size_bytes: int
    last_used: datetime
    in_use: bool


def over_budget(
    entries: Sequence[CacheEntry], budget_bytes: int, known: Collection[UUID] | None = None
) -> list[CacheEntry]:
    """What has to go: those of snapshots that are not ``known``, then the least recently used.

    ``known=None``: all are. Never one in use, even if the rest is over the budget.
    """
    gone = [e for e in entries if known is not None and e.snapshot_id not in known and not e.in_use]
    left = sorted((e for e in entries if e not in gone), key=lambda e: e.last_used)
    total = sum(e.size_bytes for e in left)
    for entry in left:
        if total > budget_bytes and not entry.in_use:
            gone.append(entry)
            total -= entry.size_bytes
    return gone


class MemoryCache:
    """``gid`` is the group that VMMs read as. ``budget_bytes``: kept after every file.

    ``vms`` are those that may map a file: all whose restore has returned.
    """

    def __init__(
        self,
        root: Path,
        gid: int,
        budget_bytes: int | None = None,
        vms: Callable[[], Collection[VmHandle]] = tuple,
    ) -> None:
        self.root = root
        self.gid = gid
        self.budget_bytes = budget_bytes
        self._vms = vms
        self._users: Counter[str] = Counter()
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def unpacked(self, path: Path, manifest: SnapshotManifest) -> AsyncIterator[Path]:
        """The plain memory of the compressed snapshot in ``path``, there while the body runs.

        ``SnapshotDamaged`` if a frame is; ``DiskFull``, and then no file is left.
        """
        packed = manifest.packed
        assert packed is not None
        frames = path / FRAMES_FILE

        def unpack(new: Path, stop: Event) -> None:
            memory_frames.unpack(frames, new, stop, sync=False)

        async with self._made(manifest.snapshot_id, packed.plain, unpack) as memory:
            yield memory

    @contextlib.asynccontextmanager
    async def laid(
        self, snapshot_id: UUID, difference: StoredFile, content: FileSum, base: StoredFile | None
    ) -> AsyncIterator[Path]:
        """The memory that ``difference`` makes of ``base``, or of zeros, there while the body runs.

        ``content`` is the sum of the plain difference, by which it is known, in whatever form it is
        stored. ``SnapshotDamaged``; ``DiskFull``, and then no file is left.
        """

        def lay(new: Path, stop: Event) -> None:
            lay_over(base, difference, new, stop)

        async with self._made(snapshot_id, content, lay) as memory:
            yield memory

    @contextlib.asynccontextmanager
    async def _made(
        self, snapshot_id: UUID, content: FileSum, make: Callable[[Path, Event], None]
    ) -> AsyncIterator[Path]:
        target = self.root / f"{snapshot_id}-{content.sha256[:_CONTENT_DIGITS]}{_SUFFIX}"
        self._users[target.name] += 1
        try:
            lock = self._making.setdefault(target.name, asyncio.Lock())
            async with lock:
                made = not await asyncio.to_thread(_is_good, target)
                if made:
                    await in_stoppable_thread(partial(self._make, make, target), "snapshot-memory")
            await asyncio.to_thread(_note_use, target)
            yield target
            if made and self.budget_bytes is not None:
                await self.evict(self.budget_bytes)  # the others: this one has just got a user
        finally:
            self._users[target.name] -= 1
            if not self._users[target.name]:
                del self._users[target.name]

    async def entries(self) -> list[CacheEntry]:
        """What is there, the least recently used first."""
        # Both asked in one go: who leaves the one is in the other.
        about_to, vms = set(self._users), self._vms()
        found = await asyncio.to_thread(self._look, about_to, vms)
        return sorted(found, key=lambda entry: entry.last_used)

    async def evict(
        self, budget_bytes: int, *, known: Collection[UUID] | None = None
    ) -> list[CacheEntry]:
        """Remove what ``over_budget`` says; what was removed."""
        removed = []
        for entry in over_budget(await self.entries(), budget_bytes, known):
            # Asked again right before: no boot can come between this and the removal.
            if entry.path.name not in self._users:
                _remove(entry.path)
                removed.append(entry)
        return removed

    async def tidy(self) -> None:
        """Remove all files that do not count any more; to be called at the start, when
        none is in use.
        """
        await asyncio.to_thread(self._tidy)

    def _files(self) -> list[Path]:
        return sorted(self.root.glob(f"*{_SUFFIX}"))

    def _look(self, about_to: Collection[str], vms: Collection[VmHandle]) -> list[CacheEntry]:
        files = self._files()
        used = {*about_to, *mapped_names(vms)} if files else set()
        found = []
        for path in files:
            with contextlib.suppress(FileNotFoundError, ValueError):
                entry = CacheEntry(
                    path=path,
                    snapshot_id=UUID(path.name[:36]),
                    size_bytes=allocated_bytes(path),
                    last_used=_last_use(path),
                    in_use=path.name in used,
                )
                found.append(entry)
        return found

    def _make(self, make: Callable[[Path, Event], None], target: Path, stop: Event) -> None:
        new = target.with_name(f"{target.name}{UNFINISHED}")
        try:
            self._make_root()
            _remove(target)
            new.unlink(missing_ok=True)
        except OSError as error:
            raise os_error(error) from error
        make(new, stop)
        try:
            if os.geteuid() == 0:
                os.chown(new, 0, self.gid)
            new.chmod(0o440)
            new.rename(target)
            note = {"boot_id": boot_id(), "stamp": stamp(target)}
            _note_path(target).write_text(json.dumps(note))
        except OSError as error:
            new.unlink(missing_ok=True)
            _remove(target)
            raise os_error(error) from error

    def _make_root(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.root.parent, self.root):
            if os.geteuid() == 0:
                os.chown(folder, -1, self.gid)
            folder.chmod(0o710)

    def _tidy(self) -> None:
        for path in self._files():
            if not _is_good(path):
                _remove(path)
        for path in self.root.glob("*"):
            is_note = path.name.endswith(f"{_SUFFIX}.json")
            if path.suffix == UNFINISHED or (is_note and not path.with_suffix("").exists()):
                path.unlink(missing_ok=True)


def _note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_good(path: Path) -> bool:
    """Whether it is there, and still what was made in this boot of the machine."""
    try:
        note = json.loads(_note_path(path).read_text())
        return bool(note == {"boot_id": boot_id(), "stamp": stamp(path)})
    except (OSError, ValueError):
        return False


def _note_use(path: Path) -> None:
    with contextlib.suppress(OSError):  # then it counts as used when it was made
        os.utime(_note_path(path))


def _last_use(path: Path) -> datetime:
    try:
        status = _note_path(path).stat()
    except FileNotFoundError:
        status = path.stat()
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _remove(path: Path) -> None:
    # The note last: a file without one does not count, so a crash in between harms nobody.
    path.unlink(missing_ok=True)
    _note_path(path).unlink(missing_ok=True)
