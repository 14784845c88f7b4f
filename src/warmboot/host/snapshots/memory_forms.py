"""The two forms of a snapshot's memory, compressed and plain, and changing it while VMs use it.

    plain: snapshot.mem  ── compress ──▶  compressed: snapshot.mem.zst
                         ◀── unpack ───

The new file is written beside the old one, synced and renamed; then ``metadata.json`` is swapped,
which decides; then the old file is removed. A crash leaves one whole form that ``metadata.json``
names and perhaps another that it does not: ``tidy`` removes that. VMs that map the old file keep
it: its inode lives as long as they do. Whoever is just about to open the file holds the form
(``reading``), and the swap waits for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TypeVar
from weakref import WeakValueDictionary

from warmboot.host.snapshots import memory_frames
from warmboot.host.snapshots.snapshot_manifest import damaged, load_manifest, write_manifest
from warmboot.model.runtime_image import FileSum
from warmboot.model.runtime_snapshot import (
    METADATA_FILE,
    PackedMemory,
    SnapshotManifest,
)
from warmboot.system.concurrency import finish
from warmboot.system.disks import os_error
from warmboot.system.file_stamps import UNFINISHED, load_stamps, save_stamps, stamp
from warmboot.system.files import sync
from warmboot.system.hashing import sum_file
from warmboot.system.low_priority import LowPriorityRunner, run_at_low_priority
from warmboot.system.on_failure import on_failure

T = TypeVar("T")


class _Gate:
    """Many readers, or one who swaps; and one change at a time."""

    def __init__(self) -> None:
        self.changing = asyncio.Lock()
        self._readers = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._readers += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Whoever comes now waits for us; we wait for those who are there."""
        self._open.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._open.set()


class MemoryForms:
    """The forms of memory in all snapshot folders of one machine. VMMs read them as the
    group ``gid``.
    """

    def __init__(self, gid: int, at_low_priority: LowPriorityRunner = run_at_low_priority) -> None:
        self._gid = gid
        self._at_low_priority = at_low_priority
        self._gates: WeakValueDictionary[Path, _Gate] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def reading(self, path: Path) -> AsyncIterator[SnapshotManifest]:
        """The form stays what the manifest says while the body runs."""
        async with self.kept(path):
            yield await asyncio.to_thread(load_manifest, path)

    @contextlib.asynccontextmanager
    async def kept(self, path: Path) -> AsyncIterator[None]:
        """The form, whichever it is, does not change while the body runs."""
        gate = self._gate(path)
        async with gate.reading():
            yield

    async def compress(self, path: Path) -> SnapshotManifest:
        """Idempotent. ``SnapshotDamaged`` if the memory is not what it was; ``DiskFull``."""
        return await self._change(path, lambda manifest: manifest.frames_file, _pack)

    async def unpack(self, path: Path) -> SnapshotManifest:
        """Idempotent. ``SnapshotDamaged`` if a frame is not what it was; ``DiskFull``."""
        return await self._change(path, lambda manifest: manifest.plain_file, _unpack)

    async def tidy(self, path: Path) -> list[Path]:
        """Remove what a change that broke off has left; what was removed."""
        async with self._gate(path).changing:
            manifest = await asyncio.to_thread(load_manifest, path)
            return await asyncio.to_thread(_remove_other_form, path, manifest)

    async def _change(
        self,
        path: Path,
        wanted: Callable[[SnapshotManifest], str],
        make: Callable[[Path, SnapshotManifest, Path], SnapshotManifest],
    ) -> SnapshotManifest:
        gate = self._gate(path)
        async with gate.changing:
            with _translated(path):
                manifest = await asyncio.to_thread(load_manifest, path)
                await asyncio.to_thread(_remove_other_form, path, manifest)
                if manifest.memory_file == (target := wanted(manifest)):
                    return manifest
                new = path / f"{target}{UNFINISHED}"
                async with on_failure(lambda: asyncio.to_thread(_drop, new)):
                    changed = await self._at_low_priority(make, path, manifest, new)
                    async with gate.alone():
                        await finish(asyncio.to_thread(self._swap, path, changed, new))
                return changed

    def _swap(self, path: Path, changed: SnapshotManifest, new: Path) -> None:
        """From here on it is the new form that counts."""
        if os.geteuid() == 0:
            os.chown(new, 0, self._gid)
        new.chmod(0o440)
        final = path / changed.memory_file
        new.rename(final)
        sync(path)
        stamps = load_stamps(path) | {final.name: stamp(final)}
        write_manifest(path, changed)
        _remove_other_form(path, changed)
        save_stamps(path, {name: stamps[name] for name in changed.files if name in stamps})

    def _gate(self, path: Path) -> _Gate:
        return self._gates.setdefault(path, _Gate())


def _drop(new: Path) -> None:
    with contextlib.suppress(OSError):  # then the next change or ``tidy`` does
        new.unlink(missing_ok=True)


def with_memory(
    manifest: SnapshotManifest, stored: FileSum, packed: PackedMemory | None
) -> SnapshotManifest:
    """The same snapshot with its memory in another form."""
    changed = replace(manifest, packed=packed)
    files = {name: one for name, one in manifest.files.items() if name != manifest.memory_file}
    return replace(changed, files={**files, changed.memory_file: stored})


def _pack(path: Path, manifest: SnapshotManifest, new: Path) -> SnapshotManifest:
    packed = memory_frames.pack(path / manifest.plain_file, new, manifest.plain, Event())
    return with_memory(manifest, sum_file(new), packed)


def _unpack(path: Path, manifest: SnapshotManifest, new: Path) -> SnapshotManifest:
    assert manifest.packed is not None
    memory_frames.unpack(path / manifest.frames_file, new, Event(), sync=True)
    plain = sum_file(new)
    if plain != manifest.packed.plain:
        raise damaged(
            path, f"{manifest.frames_file} does not hold the memory that it was made from"
        )
    return with_memory(manifest, plain, None)


def _remove_other_form(path: Path, manifest: SnapshotManifest) -> list[Path]:
    """Everything of memory's that the manifest does not name."""
    forms = {manifest.plain_file, manifest.frames_file}
    others = {f"{name}{UNFINISHED}" for name in (*forms, METADATA_FILE)} | forms
    found = [path / name for name in sorted(others - {manifest.memory_file})]
    removed = [other for other in found if other.exists()]
    for other in removed:
        other.unlink(missing_ok=True)
    return removed


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise damaged(path, f"it was removed meanwhile: {error.filename}") from error
    except OSError as error:
        raise os_error(error) from error
