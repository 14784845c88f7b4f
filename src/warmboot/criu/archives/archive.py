"""Exports a checkpoint from an engine as one file, and imports it into another engine.

Docker can restore only from its own folder, so a checkpoint travels as a tar (zstd) and is put
into the folder of a fresh container of the same image. Both ways work in temporary places beside
the final ones and rename at the end: a failure leaves nothing behind.

An archive is a stranger's until it is proven otherwise: plain files only, each one announced in the
manifest with its size and sum, all of them bounded before a byte is written. The worker's own files
are one of these, a tar (``layers``, ``layer_tar``), laid down by ``layer_files``. What an import
would refuse, or could not bring, makes the export fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import zstandard

from warmboot.criu.archives.layer_files import move_in, refuse_foreign, unpack_layer
from warmboot.criu.archives.layers import pack_changes
from warmboot.criu.archives.manifests import (
    CHECKPOINT_FOLDER,
    CONFIG_DUMP,
    DELETED_FILES,
    MANIFEST,
    ROOTFS_DIFF,
    SPEC_DUMP,
    config_dump,
    manifest_json,
    parse_deleted,
    parse_manifest,
    spec_dump,
)
from warmboot.criu.archives.plain_tar import CHUNK, Member, hostile, members
from warmboot.criu.checkpoint import OUR_FILES, dump_facts, inspect_when_stopped
from warmboot.criu.images import read_dump
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.stored import STAGING
from warmboot.criu.runtime.sums import check_sums
from warmboot.docker.engine import DockerEngine
from warmboot.model.checkpoint import (
    ArchiveManifest,
    Versions,
    archive_obstacles,
    check_checkpoint_name,
)
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    DiskFull,
    NameTaken,
    NotSupported,
)
from warmboot.model.runtime_image import FileSum

COMPRESSION_LEVEL = 3
SCRATCH = ".warmboot-export-"
MAX_MANIFEST_BYTES = 64 << 20
MAX_DELETED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What an import takes at most."""

    total_bytes: int = 16 << 40
    members: int = 1_000_000
    changed_files: int = 100_000_000


async def export_checkpoint(
    engine: DockerEngine,
    container: str,
    name: str,
    destination: Path,
    *,
    versions: Versions,
    created_at: datetime,
    into: Path | None = None,
) -> ArchiveManifest:
    """Write checkpoint ``name`` to ``destination``; ``versions`` is what it was made with.

    ``into`` is its folder, if the engine does not keep it.
    ``Conflict`` while the container runs: what it changes on its disk would not fit the memory.
    ``CheckpointError`` when it is damaged.
    """
    found = await inspect_when_stopped(engine, container)
    if found.running:
        raise Conflict(
            f"{found.name} is running, so its files may have changed since the checkpoint",
            resolution="pause it, then export that checkpoint",
        )
    dump = await dump_facts(engine, found.id, name, into)
    facts = await engine.remembered_facts()
    description = await engine.description(found.id)
    manifest = ArchiveManifest(
        name=name,
        created_at=created_at,
        image=found.image,
        image_digest=found.image_digest,
        versions=versions,
        network=found.network,
        processes=len(dump.processes),
        tcp_connections=dump.tcp_connections,
        mounts=found.mounts,
    )
    metadata = {
        CONFIG_DUMP: config_dump(found, description, created_at),
        SPEC_DUMP: spec_dump(found, description),
    }
    if found.upper_folder is None:
        raise _no_folder("exported", facts.storage_driver)
    folder, layer = facts.checkpoint_folder(found.id, name), found.upper_folder
    if into is not None:
        kept = CheckpointFolder(into)
        folder = kept.memory
        await asyncio.to_thread(check_sums, into, folder)
        if kept.files.is_dir():
            layer = kept.files
            await asyncio.to_thread(check_sums, into, layer)
    return await asyncio.to_thread(_pack, folder, layer, manifest, metadata, destination)


def read_manifest(source: Path) -> ArchiveManifest:
    """An archive's manifest, without looking at the rest. ``InvalidRequest``."""
    with _opened(source) as stream:
        return _manifest(members(stream, 2))


async def import_checkpoint(
    engine: DockerEngine,
    container: str,
    name: str,
    source: Path,
    *,
    criu: str,
    limits: Limits = Limits(),
    into: Path | None = None,
) -> ArchiveManifest:
    """Make the archive ``source`` the checkpoint ``name`` of a container that never ran.

    ``criu`` is this host's version, ``into`` the folder, if the engine shall not keep it.
    ``NotSupported`` when it does not fit here, ``InvalidRequest`` when it is damaged or hostile;
    the container is then as before. Afterwards it has the files of
    the original, and lacks those that this had deleted.
    """
    check_checkpoint_name(name)
    facts, found = await asyncio.gather(engine.facts(), engine.inspect(container))
    if found.status != "created":
        raise Conflict(
            f"{found.name} has already run",
            resolution="import into a fresh worker of the same image",
        )
    manifest = await asyncio.to_thread(read_manifest, source)
    obstacles = archive_obstacles(
        manifest,
        facts.versions(criu),
        found.image_digest,
        network=found.network,
        mounts=found.mounts,
    )
    if obstacles:
        raise NotSupported(
            "the archive does not match this worker",
            details="; ".join(obstacle.reason for obstacle in obstacles),
            resolution="; ".join(obstacle.remedy for obstacle in obstacles),
        )
    upper = found.upper_folder
    if upper is None:
        raise _no_folder("imported", facts.storage_driver)
    target = into or facts.checkpoint_folder(found.id, name)
    if target.exists():
        raise NameTaken(f"{found.name} already has a checkpoint {name}")
    beside = target.parents[1] if into is None else target.parent
    await asyncio.to_thread(beside.mkdir, mode=0o700, parents=True, exist_ok=True)
    _check_size(manifest, limits, beside)
    await asyncio.to_thread(refuse_foreign, upper)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=beside))
    changes = Path(tempfile.mkdtemp(prefix=STAGING, dir=upper.parent))
    try:
        await asyncio.to_thread(_unpack, source, staging, manifest, limits)
        await asyncio.to_thread(read_dump, staging / CHECKPOINT_FOLDER, frozenset())
        await asyncio.to_thread(_unpack_changes, staging, changes, upper, limits)
        await asyncio.to_thread(move_in, changes, upper)
        await asyncio.to_thread(_place, staging / CHECKPOINT_FOLDER, target, into is None)
    finally:
        await asyncio.to_thread(shutil.rmtree, staging, True)
        await asyncio.to_thread(shutil.rmtree, changes, True)
    return manifest


def _place(images: Path, target: Path, engines: bool) -> None:
    if engines:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        images.rename(target)
        return
    folder = CheckpointFolder(target)
    images.rename(folder.begin().memory)
    folder.publish()


def _no_folder(done: str, driver: str) -> NotSupported:
    return NotSupported(
        f"checkpoints cannot be {done} with the storage driver {driver}",
        resolution="use Docker's overlay2 storage driver",
    )


def _unpack_changes(staging: Path, changes: Path, upper: Path, limits: Limits) -> None:
    status = upper.stat()
    os.chown(changes, status.st_uid, status.st_gid)
    changes.chmod(status.st_mode & 0o7777)
    deleted = parse_deleted(staging / DELETED_FILES)
    with (staging / ROOTFS_DIFF).open("rb") as layer:
        unpack_layer(layer, deleted, changes, limits.changed_files)


def _pack(
    folder: Path,
    upper: Path,
    manifest: ArchiveManifest,
    metadata: dict[str, bytes],
    destination: Path,
) -> ArchiveManifest:
    """Sum everything first, as the manifest stands at the front; then write it."""
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=destination.parent) as scratch:
            layer = Path(scratch) / ROOTFS_DIFF
            deleted = pack_changes(upper, layer)
            metadata = {**metadata, DELETED_FILES: json.dumps(deleted).encode()}
            paths = {ROOTFS_DIFF: layer} | {
                f"{CHECKPOINT_FOLDER}{path.name}": path
                for path in sorted(folder.iterdir())
                if path.is_file() and path.name not in OUR_FILES
            }
            sums = {name: _sum_bytes(content) for name, content in metadata.items()}
            sums |= {name: _sum_file(path) for name, path in paths.items()}
            manifest = replace(manifest, files=sums)
            partial = Path(scratch) / "archive"
            _write_archive(partial, manifest, metadata, paths)
            partial.replace(destination)
    except OSError as error:
        raise DiskFull(
            "the archive could not be written",
            details=str(error),
            resolution=f"check that {destination.parent} has free space and is writable",
        ) from error
    return manifest


def _write_archive(
    path: Path, manifest: ArchiveManifest, metadata: dict[str, bytes], paths: dict[str, Path]
) -> None:
    """``NotSupported`` when an import would refuse it for its size."""
    head = manifest_json(manifest)
    if len(head) > MAX_MANIFEST_BYTES or len(metadata[DELETED_FILES]) > MAX_DELETED_BYTES:
        raise NotSupported(
            "the checkpoint cannot be exported",
            details=f"it has {len(manifest.files)} files, and its worker has deleted too many",
            resolution="keep what the worker creates and deletes so much of in a mount",
        )
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, threads=-1)
    with (
        path.open("wb") as file,
        compressor.stream_writer(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        _add(tar, MANIFEST, io.BytesIO(head))
        for name, content in metadata.items():
            _add(tar, name, io.BytesIO(content))
        folder_entry = tarfile.TarInfo(CHECKPOINT_FOLDER)  # checkpointctl looks for it
        folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder_entry)
        for name, one in paths.items():
            with one.open("rb") as content_file:
                _add(tar, name, content_file)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = content.seek(0, os.SEEK_END)
    member.mode, member.mtime = 0o600, int(datetime.now(UTC).timestamp())
    content.seek(0)
    tar.addfile(member, content)


def _sum_bytes(content: bytes) -> FileSum:
    return FileSum(len(content), hashlib.sha256(content).hexdigest())


def _sum_file(path: Path) -> FileSum:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileSum(file.tell(), digest)


def _check_size(manifest: ArchiveManifest, limits: Limits, beside: Path) -> None:
    total = sum(one.size_bytes for one in manifest.files.values())
    if any(one.size_bytes < 0 for one in manifest.files.values()) or total > limits.total_bytes:
        raise hostile(f"it announces {total} bytes; {limits.total_bytes} are allowed")
    free = shutil.disk_usage(beside).free
    if total > free:
        raise DiskFull(
            "there is not enough space for the archive",
            details=f"it needs {total >> 20} MiB below {beside}, {free >> 20} MiB are free",
            resolution="delete checkpoints, containers or images that are not needed",
        )


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    try:
        with (
            source.open("rb") as file,
            zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file) as stream,
        ):
            yield stream
    except zstandard.ZstdError as error:
        raise hostile(f"it is not zstd, or is damaged: {error}") from error


def _manifest(found: Iterator[Member]) -> ArchiveManifest:
    first = next(found, None)
    if first is None or first.name != MANIFEST or first.size > MAX_MANIFEST_BYTES:
        raise hostile(f"it does not begin with {MANIFEST}")
    return parse_manifest(b"".join(first.chunks))


def _unpack(source: Path, staging: Path, manifest: ArchiveManifest, limits: Limits) -> None:
    """Every announced file, once, of its size and sum; nothing else."""
    _check_names(manifest)
    (staging / CHECKPOINT_FOLDER).mkdir(mode=0o700)
    missing = dict(manifest.files)
    with _opened(source) as stream:
        found = members(stream, limits.members)
        if _manifest(found) != manifest:
            raise hostile("it changed while it was being read")
        for member in found:
            announced = missing.pop(member.name, None)
            if announced is None:
                raise hostile(f"{member.name!r} is not in its manifest, or is there twice")
            if member.size != announced.size_bytes:
                raise hostile(f"{member.name!r} does not have the announced size")
            if _write(member, staging / member.name) != announced.sha256:
                raise CheckpointError(
                    "the archive is damaged",
                    details=f"{member.name} does not have its SHA-256 sum",
                    resolution="export or copy it again",
                )
    if missing:
        raise hostile(f"{', '.join(sorted(missing)[:3])} missing")


def _check_names(manifest: ArchiveManifest) -> None:
    needed = {CONFIG_DUMP, SPEC_DUMP, ROOTFS_DIFF, DELETED_FILES}
    if DELETED_FILES in manifest.files and (
        manifest.files[DELETED_FILES].size_bytes > MAX_DELETED_BYTES
    ):
        raise hostile("it has too many deleted files")
    if absent := needed - set(manifest.files):
        raise hostile(f"{', '.join(sorted(absent))} missing")
    for path in set(manifest.files) - needed:
        name = path.removeprefix(CHECKPOINT_FOLDER)
        plain = path.startswith(CHECKPOINT_FOLDER) and name not in ("", ".", "..")
        if not plain or "/" in name or "\0" in name or name in OUR_FILES:
            raise hostile(f"{path!r} does not belong into an archive")


def _write(member: Member, path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("xb", buffering=CHUNK) as file:
            for chunk in member.chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskFull(
            "the archive could not be unpacked",
            details=str(error),
            resolution="make room on the engine's disk, then import again",
        ) from error
    return digest.hexdigest()
