"""Snapshot folders: laid out as in the specification, and published atomically.

    <root>/<runtime image id>/.building-<snapshot id>/   while it is made
    <root>/<runtime image id>/<snapshot id>/             once it is complete; kept whole
        snapshot.mem  snapshot.state  rootfs.ext4  disk.ext4  metadata.json
        snapshot.mem.zst in the place of snapshot.mem while it is stored compressed
        of a VM in use: snapshot.diff, the layers of its disk, and the agent's token

A folder is filled under its temporary name, summed, synced and renamed; a crash leaves either no
snapshot or a whole one. ``rootfs.ext4`` is a hard link to the runtime image's, ``disk.ext4`` the
writable disk as it was when the VM was frozen.

Damage is found in two ways. ``check`` is cheap enough for every boot: it compares each file's size,
inode and change times with those noted when its sum was last taken, and takes the sum again only
where they differ. ``verify`` always takes the sums.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from warmboot.host.snapshots import moments
from warmboot.host.snapshots.memory_forms import MemoryForms
from warmboot.host.snapshots.snapshot_manifest import (
    damaged,
    load_manifest,
    manifest_to_json,
    memory_metadata,
    parts_of,
)
from warmboot.model.runtime_image import FileSum, RuntimeImage
from warmboot.model.runtime_snapshot import (
    DIFFERENCE_FILE,
    DISK_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    TOKEN_FILE,
    Moment,
    SnapshotManifest,
)
from warmboot.system.disks import copy_file
from warmboot.system.file_stamps import (
    STAMPS_FILE,
    UNFINISHED,
    load_stamps,
    relinking,
    save_stamps,
    stamp,
)
from warmboot.system.files import sync
from warmboot.system.hashing import sum_file
from warmboot.system.low_priority import LowPriorityRunner, run_at_low_priority

BUILDING = ".building-"
GONE = ".gone-"


class SnapshotFiles:
    """All snapshot folders below ``root``. ``gid`` is the group that VMMs read them as."""

    def __init__(
        self, root: Path, gid: int, at_low_priority: LowPriorityRunner = run_at_low_priority
    ) -> None:
        self.root = root
        self.gid = gid
        self._at_low_priority = at_low_priority
        self._forms = MemoryForms(gid, at_low_priority)
        self._linking = threading.Lock()

    def path(self, image_id: UUID, snapshot_id: UUID) -> Path:
        return self.root / str(image_id) / str(snapshot_id)

    async def begin(self, image: RuntimeImage, snapshot_id: UUID) -> Path:
        """A folder for ``snapshot_id``, with its root file system and an empty disk in it."""
        folder = self._building(image.id, snapshot_id)
        await asyncio.to_thread(self._begin, image, folder)
        return folder

    async def begin_moment(self, image_id: UUID, snapshot_id: UUID, rootfs: Path) -> Path:
        """A folder for ``snapshot_id``, with the root file system of the VM in use in it."""
        folder = self._building(image_id, snapshot_id)
        await asyncio.to_thread(self._begin_folder, rootfs, folder)
        return folder

    async def hand_over(self, folder: Path, uid: int) -> None:
        """Give a folder that is being built, and its disk, to the builder VM's user."""
        self.lend(folder, uid)
        if os.geteuid() == 0:
            os.chown(folder / DISK_FILE, uid, self.gid)

    def lend(self, folder: Path, uid: int) -> None:
        """A VM's user may write to it, until it is given back to 0."""
        if os.geteuid() == 0:
            os.chown(folder, uid, self.gid)

    async def publish(self, folder: Path, manifest: SnapshotManifest) -> SnapshotManifest:
        """Sum, sync and rename ``folder``; the manifest as written, with its sums. Those that are
        in it are taken on trust."""
        return await asyncio.to_thread(self._publish, folder, manifest)

    async def publish_moment(
        self,
        folder: Path,
        manifest: SnapshotManifest,
        *,
        source: Path | None,
        based: bool,
        disk_base: Path | None,
        layers: tuple[str, ...],
        token: str | None,
        durable: bool,
    ) -> SnapshotManifest:
        """The same of a VM in use, which was restored from ``source`` if it is ``based``, and
        whose agent takes orders with ``token``; ``None``: with that of whoever claims it.
        ``SnapshotDamaged``, ``DiskFull``.

        Unless it is ``durable`` its memory is not synced: it is of no use after a power failure.
        """
        below = None if source is None else await asyncio.to_thread(load_manifest, source)
        base, files = None, dict(manifest.files)
        if source is not None and below is not None:
            if based and below.moment is not None:
                base = below.moment.base
                async with self.reading(source) as now:
                    await moments.merge_with(source, now, folder)
            elif based:
                base = source
            if (source / ROOTFS_FILE).samefile(folder / ROOTFS_FILE):
                files[ROOTFS_FILE] = below.files[ROOTFS_FILE]  # not read again for every moment
        moment = Moment(base, layers, disk_base, claimed=token is not None)
        if token is not None:
            await asyncio.to_thread(moments.write_token, folder, token)
        whole = replace(manifest, files=files, moment=moment)
        unsynced = () if durable else (DIFFERENCE_FILE, STATE_FILE)
        return await asyncio.to_thread(self._publish, folder, whole, unsynced)

    async def check(self, path: Path) -> SnapshotManifest:
        """Cheap: ``SnapshotDamaged`` if a file is missing, or changed and no longer what it was."""
        async with self._forms.kept(path):
            return await asyncio.to_thread(_checked, path, False)

    async def verify(self, path: Path, *, low_priority: bool = False) -> SnapshotManifest:
        """Thorough: every sum is taken; ``low_priority``: with what processor time is left over."""
        async with self._forms.kept(path):
            if low_priority:
                return await self._at_low_priority(_checked, path, True)
            return await asyncio.to_thread(_checked, path, True)

    async def compress(self, path: Path) -> SnapshotManifest:
        """Store its memory as frames; see ``memory_forms``."""
        return await self._forms.compress(path)

    async def unpack(self, path: Path) -> SnapshotManifest:
        """Store its memory plain again."""
        return await self._forms.unpack(path)

    async def tidy(self, path: Path) -> list[Path]:
        """Remove what a change of form that broke off has left; what was removed."""
        return await self._forms.tidy(path)

    def reading(self, path: Path) -> AbstractAsyncContextManager[SnapshotManifest]:
        """Its memory keeps its form in the body: for whoever is about to open the file."""
        return self._forms.reading(path)

    async def memory_metadata(self, path: Path) -> dict[str, object]:
        """What a row says of its memory: form and sizes, as they are on the disk."""
        return await asyncio.to_thread(lambda: memory_metadata(load_manifest(path), path))

    async def discard(self, image_id: UUID, snapshot_id: UUID) -> None:
        """Remove a snapshot's folder in whatever state it is. The caller knows that it is free."""
        for path in (self._building(image_id, snapshot_id), self.path(image_id, snapshot_id)):
            await asyncio.to_thread(self._discard, path)

    def _building(self, image_id: UUID, snapshot_id: UUID) -> Path:
        return self.root / str(image_id) / f"{BUILDING}{snapshot_id}"

    def _discard(self, folder: Path) -> None:
        with self._linking, relinking(folder / ROOTFS_FILE, self._sharing()):
            _remove_folder(folder)

    def _sharing(self) -> Iterator[Path]:
        """The folders that may have one root file system in common: images' and snapshots'."""
        yield from self.root.parent.glob("runtime-images/*")
        yield from self.root.glob("*/*")

    def _begin_folder(self, rootfs: Path, folder: Path) -> None:
        _remove_folder(folder)
        folder.mkdir(parents=True)
        for parent in (self.root, folder.parent):
            self._let_group_enter(parent)
        with self._linking, relinking(rootfs, (rootfs.parent, *self._sharing())):
            link_or_copy(rootfs, folder / ROOTFS_FILE)

    def _begin(self, image: RuntimeImage, folder: Path) -> None:
        self._begin_folder(image.rootfs, folder)
        copy_file(image.disk, folder / DISK_FILE)
        (folder / DISK_FILE).chmod(0o600)

    def _publish(
        self, folder: Path, manifest: SnapshotManifest, unsynced: Collection[str] = ()
    ) -> SnapshotManifest:
        files = {}
        for name in parts_of(manifest):
            part = folder / name
            if name == TOKEN_FILE:
                part.chmod(0o400)  # not for VMMs
            elif name != ROOTFS_FILE:  # that one is the runtime image's own
                if os.geteuid() == 0:
                    os.chown(part, 0, self.gid)
                part.chmod(0o440)
            files[name] = manifest.files.get(name) or sum_file(part)
            if name not in unsynced:
                sync(part)
        whole = replace(manifest, files=files)
        text = json.dumps(manifest_to_json(whole), indent=2, sort_keys=True) + "\n"
        (folder / METADATA_FILE).write_text(text)
        sync(folder / METADATA_FILE)
        if os.geteuid() == 0:
            os.chown(folder, 0, self.gid)
        self._let_group_enter(folder)
        (folder / STAMPS_FILE).write_text(json.dumps({n: stamp(folder / n) for n in files}))
        sync(folder)
        final = folder.with_name(folder.name.removeprefix(BUILDING))
        folder.rename(final)
        sync(final.parent)
        return whole

    def _let_group_enter(self, folder: Path) -> None:
        if os.geteuid() == 0:
            os.chown(folder, -1, self.gid)
        folder.chmod(0o710)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows it; an independent copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)
        target.chmod(0o444)


def _checked(path: Path, thorough: bool) -> SnapshotManifest:
    manifest = load_manifest(path)
    if set(manifest.files) != set(parts_of(manifest)) or str(manifest.snapshot_id) != path.name:
        raise damaged(path, f"{METADATA_FILE} is not this snapshot's")
    stamps = {} if thorough else load_stamps(path)
    news = {}
    for name, expected in manifest.files.items():
        try:
            now = stamp(path / name)
            if stamps.get(name) != now:
                _compare(path, name, now["size"], expected)
                news[name] = now
        except FileNotFoundError:
            raise damaged(path, f"{name} is missing") from None
        except OSError as error:
            raise damaged(path, f"{name} cannot be read: {error}") from error
    if news:
        save_stamps(path, stamps | news)
    return manifest


def _compare(path: Path, name: str, size: int, expected: FileSum) -> None:
    if size != expected.size_bytes:
        raise damaged(path, f"{name} has {size} bytes instead of {expected.size_bytes}")
    if sum_file(path / name) != expected:
        raise damaged(path, f"{name} is not what it was: its SHA-256 differs")


def _remove_folder(path: Path) -> None:
    gone = path.with_name(f"{GONE}{path.name.removeprefix(BUILDING)}")
    # Nothing to remove, too, when something else is in the way of the parent folder.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _remove_tree(gone)  # what an earlier removal that broke off has left
        path.rename(gone)  # at once out of the way: nobody can find it half removed
        _remove_tree(gone)


def _remove_tree(path: Path) -> None:
    """Also what is no folder, as somebody may have put a file in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


__all__ = [
    "BUILDING",
    "GONE",
    "UNFINISHED",
    "SnapshotFiles",
    "link_or_copy",
    "load_manifest",
    "manifest_to_json",
    "memory_metadata",
]
