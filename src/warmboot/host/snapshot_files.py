"""Snapshot folders: laid out as in the specification, published whole or not at all.

    <root>/<runtime image id>/.building-<snapshot id>/   while it is made
    <root>/<runtime image id>/<snapshot id>/             once it is complete, and never changed
        snapshot.mem  snapshot.state  rootfs.ext4  disk.ext4  metadata.json

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
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from warmboot.host.disks import copy_file
from warmboot.images.hashing import sum_file
from warmboot.model.errors import InvalidRequest, SnapshotDamaged
from warmboot.model.runtime_image import FileSum, RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    MEMORY_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    HostRequirements,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape

_PARTS = (MEMORY_FILE, STATE_FILE, ROOTFS_FILE, DISK_FILE)
_BUILDING = ".building-"
_SEEN_FILE = ".seen.json"
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    InvalidRequest,
)
"""What reading ``metadata.json`` raises when it is not what it was; the last for a shape."""


class SnapshotFiles:
    """All snapshot folders below ``root``. ``gid`` is the group that VMMs read them as."""

    def __init__(self, root: Path, gid: int) -> None:
        self.root = root
        self.gid = gid

    def path(self, image_id: UUID, snapshot_id: UUID) -> Path:
        return self.root / str(image_id) / str(snapshot_id)

    async def begin(self, image: RuntimeImage, snapshot_id: UUID) -> Path:
        """A folder for ``snapshot_id``, with its root file system and an empty disk in it."""
        folder = self._building(image.id, snapshot_id)
        await asyncio.to_thread(self._begin, image, folder)
        return folder

    async def hand_over(self, folder: Path, uid: int) -> None:
        """Give a folder that is being built, and its disk, to the builder VM's user."""
        if os.geteuid() == 0:
            os.chown(folder, uid, self.gid)
            os.chown(folder / DISK_FILE, uid, self.gid)

    async def publish(self, folder: Path, manifest: SnapshotManifest) -> SnapshotManifest:
        """Sum, sync and rename ``folder``; the manifest as written, with its sums."""
        return await asyncio.to_thread(self._publish, folder, manifest)

    async def check(self, path: Path) -> SnapshotManifest:
        """Cheap: ``SnapshotDamaged`` if a file is missing, or changed and no longer what it was."""
        return await asyncio.to_thread(self._check, path, False)

    async def verify(self, path: Path) -> SnapshotManifest:
        """Thorough: every sum is taken."""
        return await asyncio.to_thread(self._check, path, True)

    async def discard(self, image_id: UUID, snapshot_id: UUID) -> None:
        """Remove a snapshot's folder in whatever state it is. The caller knows that it is free."""
        for path in (self._building(image_id, snapshot_id), self.path(image_id, snapshot_id)):
            await asyncio.to_thread(_remove_folder, path)

    async def orphans(self, known: Iterable[UUID]) -> list[Path]:
        """Folders that belong to no known snapshot, half-built ones included."""
        names = {str(snapshot_id) for snapshot_id in known}
        return [
            path
            for path in self.root.glob("*/*")
            if path.name.removeprefix(_BUILDING).removeprefix(".gone-") not in names
            or path.name.startswith(".gone-")
        ]

    def _building(self, image_id: UUID, snapshot_id: UUID) -> Path:
        return self.root / str(image_id) / f"{_BUILDING}{snapshot_id}"

    def _begin(self, image: RuntimeImage, folder: Path) -> None:
        _remove_folder(folder)
        folder.mkdir(parents=True)
        for parent in (self.root, folder.parent):
            self._let_group_enter(parent)
        link_or_copy(image.rootfs, folder / ROOTFS_FILE)
        copy_file(image.disk, folder / DISK_FILE)
        (folder / DISK_FILE).chmod(0o600)

    def _publish(self, folder: Path, manifest: SnapshotManifest) -> SnapshotManifest:
        files = {}
        for name in _PARTS:
            part = folder / name
            if name != ROOTFS_FILE:  # that one is the runtime image's own
                if os.geteuid() == 0:
                    os.chown(part, 0, self.gid)
                part.chmod(0o440)
            files[name] = sum_file(part)
            _sync(part)
        whole = replace(manifest, files=files)
        text = json.dumps(manifest_to_json(whole), indent=2, sort_keys=True) + "\n"
        (folder / METADATA_FILE).write_text(text)
        _sync(folder / METADATA_FILE)
        if os.geteuid() == 0:
            os.chown(folder, 0, self.gid)
        self._let_group_enter(folder)
        (folder / _SEEN_FILE).write_text(json.dumps({n: _stamp(folder / n) for n in _PARTS}))
        _sync(folder)
        final = folder.with_name(folder.name.removeprefix(_BUILDING))
        folder.rename(final)
        _sync(final.parent)
        return whole

    def _let_group_enter(self, folder: Path) -> None:
        if os.geteuid() == 0:
            os.chown(folder, -1, self.gid)
        folder.chmod(0o710)

    def _check(self, path: Path, thorough: bool) -> SnapshotManifest:
        manifest = load_manifest(path)
        if set(manifest.files) != set(_PARTS) or str(manifest.snapshot_id) != path.name:
            raise _damaged(path, f"{METADATA_FILE} is not this snapshot's")
        seen = {} if thorough else _load_seen(path / _SEEN_FILE)
        news = {}
        for name, expected in manifest.files.items():
            try:
                stamp = _stamp(path / name)
                if seen.get(name) != stamp:
                    _compare(path, name, stamp["size"], expected)
                    news[name] = stamp
            except FileNotFoundError:
                raise _damaged(path, f"{name} is missing") from None
            except OSError as error:
                raise _damaged(path, f"{name} cannot be read: {error}") from error
        if news:
            _note_seen(path, seen | news)
        return manifest


def manifest_to_json(manifest: SnapshotManifest) -> dict[str, Any]:
    document = asdict(manifest)
    document["snapshot_id"] = str(manifest.snapshot_id)
    document["created_at"] = manifest.created_at.isoformat()
    return document


def load_manifest(path: Path) -> SnapshotManifest:
    """Read ``metadata.json``; ``SnapshotDamaged`` when it is missing or not understood."""
    try:
        document = json.loads((path / METADATA_FILE).read_text())
        return SnapshotManifest(
            snapshot_id=UUID(document["snapshot_id"]),
            image_digest=document["image_digest"],
            agent_version=document["agent_version"],
            shape=Shape(**document["shape"]),
            requires=HostRequirements(**document["requires"]),
            files={name: FileSum(**value) for name, value in document["files"].items()},
            created_at=datetime.fromisoformat(document["created_at"]),
            cmdline=document["cmdline"],
            uid=document["uid"],
        )
    except _UNREADABLE as error:
        raise _damaged(path, f"{METADATA_FILE} cannot be read: {error}") from error


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows it; an independent copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)
        target.chmod(0o444)


def _compare(path: Path, name: str, size: int, expected: FileSum) -> None:
    if size != expected.size_bytes:
        raise _damaged(path, f"{name} has {size} bytes instead of {expected.size_bytes}")
    if sum_file(path / name) != expected:
        raise _damaged(path, f"{name} is not what it was: its SHA-256 differs")


def _note_seen(path: Path, seen: dict[str, dict[str, int]]) -> None:
    """So that the next check is cheap. If it cannot be noted, that one takes the sums again."""
    temporary = path / f"{_SEEN_FILE}.new"
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(seen))
            temporary.rename(path / _SEEN_FILE)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    # ctime is left out for the root file system's sake: every new hard link changes it.
    stamp = {"size": status.st_size, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}
    if status.st_nlink == 1:
        stamp["ctime_ns"] = status.st_ctime_ns
    return stamp


def _load_seen(path: Path) -> dict[str, dict[str, int]]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _damaged(path: Path, details: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"the snapshot {path.name} is damaged",
        details=details,
        resolution=f"rebuild it: `warmboot snapshot rebuild {path.name}`",
    )


def _remove_folder(path: Path) -> None:
    gone = path.with_name(f".gone-{path.name.removeprefix(_BUILDING)}")
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
