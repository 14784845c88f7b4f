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
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import zstandard

from warmboot.criu.archives.layer_files import move_in, refuse_foreign, unpack_layer
from warmboot.criu.archives.manifests import (
    ARCHIVE_SUMS,
    CHECKPOINT_FOLDER,
    CONFIG_DUMP,
    DELETED_FILES,
    MANIFEST,
    ROOTFS_DIFF,
    SPEC_DUMP,
    config_dump,
    parse_deleted,
    parse_manifest,
    parse_sums,
    spec_dump,
)
from warmboot.criu.archives.packing import (
    MAX_DELETED_BYTES,
    MAX_MANIFEST_BYTES,
    Contents,
    stream_archive,
)
from warmboot.criu.archives.plain_tar import CHUNK, Member, Summed, hostile, members
from warmboot.criu.checkpoint import OUR_FILES, dump_facts
from warmboot.criu.images import read_dump
from warmboot.criu.lost_exit import inspect_when_stopped
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.stored import STAGING
from warmboot.docker.engine import DockerEngine
from warmboot.model.checkpoint import (
    SUMS_AT_THE_END,
    ArchiveManifest,
    Obstacle,
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
from warmboot.model.worker import HOST_NETWORK
from warmboot.system.concurrency import finish, in_own_thread


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
    *,
    versions: Versions,
    created_at: datetime,
    into: Path | None = None,
) -> AsyncGenerator[bytes, None]:
    """Checkpoint ``name`` as an archive; ``versions`` is what it was made with.

    ``into`` is its folder, if the engine does not keep it.
    ``Conflict`` while the container runs: what it changes on its disk would not fit the memory.
    ``CheckpointError`` when it is damaged, which may be seen late: what was given is no archive
    then, and nobody imports it.
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
        if kept.files.is_dir():
            layer = kept.files
    async with aclosing(
        stream_archive(Contents(manifest, metadata, folder, layer, into))
    ) as chunks:
        async for chunk in chunks:
            yield chunk


async def import_checkpoint(
    engine: DockerEngine,
    container: str,
    name: str,
    source: IO[bytes],
    *,
    criu: str,
    limits: Limits = Limits(),
    into: Path | None = None,
) -> ArchiveManifest:
    """Make the archive ``source`` the checkpoint ``name`` of a container that never ran.

    It is unpacked as it is read, in a thread, to its end, and closed if that is to end early.
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
    upper = found.upper_folder
    if upper is None:
        raise _no_folder("imported", facts.storage_driver)
    target = into or facts.checkpoint_folder(found.id, name)
    if target.exists():
        raise NameTaken(f"{found.name} already has a checkpoint {name}")
    beside = target.parents[1] if into is None else target.parent
    await asyncio.to_thread(beside.mkdir, mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(refuse_foreign, upper)

    def check(manifest: ArchiveManifest) -> None:
        _refuse(
            archive_obstacles(
                manifest,
                facts.versions(criu),
                found.image_digest,
                network=found.network,
                mounts=found.mounts,
                runtime=found.runtime,
            )
        )
        _check_size(manifest, limits, beside)

    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=beside))
    changes = Path(tempfile.mkdtemp(prefix=STAGING, dir=upper.parent if into is None else beside))
    try:
        _as_owned(changes, upper)
        manifest = await finish(
            in_own_thread(
                lambda: unpack_archive(source, staging, changes, check, limits), "import"
            ),
            on_cancel=source.close,
        )
        await asyncio.to_thread(read_dump, staging / CHECKPOINT_FOLDER, frozenset())
        if into is None:
            await asyncio.to_thread(move_in, changes, upper)
            await asyncio.to_thread(_place, staging / CHECKPOINT_FOLDER, target)
        else:
            making = await asyncio.to_thread(CheckpointFolder(into).begin)
            if found.network != HOST_NETWORK:
                await asyncio.to_thread(making.note_own_network)
            images = staging / CHECKPOINT_FOLDER
            await asyncio.to_thread(_publish, images, changes, making, CheckpointFolder(into))
    finally:
        await asyncio.to_thread(shutil.rmtree, staging, True)
        await asyncio.to_thread(shutil.rmtree, changes, True)
    return manifest


def _refuse(obstacles: Collection[Obstacle]) -> None:
    if obstacles:
        raise NotSupported(
            "the archive does not match this worker",
            details="; ".join(obstacle.reason for obstacle in obstacles),
            resolution="; ".join(obstacle.remedy for obstacle in obstacles),
        )


def _place(images: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    images.rename(target)


def _publish(
    images: Path, changes: Path, making: CheckpointFolder, folder: CheckpointFolder
) -> None:
    """In a folder of ours: the resume puts the files into the worker's layer, as any other's."""
    images.rename(making.memory)
    changes.rename(making.files)
    folder.publish()


def _no_folder(done: str, driver: str) -> NotSupported:
    return NotSupported(
        f"checkpoints cannot be {done} with the storage driver {driver}",
        resolution="use Docker's overlay2 storage driver",
    )


def _as_owned(changes: Path, upper: Path) -> None:
    status = upper.stat()
    os.chown(changes, status.st_uid, status.st_gid)
    changes.chmod(status.st_mode & 0o7777)


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
def _opened(source: IO[bytes]) -> Iterator[IO[bytes]]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        with decompressor.stream_reader(source, closefd=False) as stream:
            yield stream
    except zstandard.ZstdError as error:
        raise hostile(f"it is not zstd, or is damaged: {error}") from error


def _manifest(found: Iterator[Member]) -> ArchiveManifest:
    first = next(found, None)
    if first is None or first.name != MANIFEST or first.size > MAX_MANIFEST_BYTES:
        raise hostile(f"it does not begin with {MANIFEST}")
    return parse_manifest(b"".join(first.chunks))


def unpack_archive(
    source: IO[bytes],
    staging: Path,
    changes: Path,
    check: Callable[[ArchiveManifest], None],
    limits: Limits,
) -> ArchiveManifest:
    """Every announced file, once, of its size and sum; nothing else.

    ``check`` raises for a manifest that does not fit here, before anything is written.
    The layer is laid into ``changes`` as it comes, if the list of deleted files came before it.
    """
    found_sums: dict[str, str] = {}
    sums: dict[str, str] | None = None
    with _opened(source) as stream:
        found = members(stream, limits.members)
        manifest = _manifest(found)
        check(manifest)
        _check_names(manifest)
        (staging / CHECKPOINT_FOLDER).mkdir(mode=0o700)
        missing = dict(manifest.files)
        if manifest.format < SUMS_AT_THE_END:
            sums = {name: one.sha256 for name, one in manifest.files.items()}
        for member in found:
            if member.name == ARCHIVE_SUMS and sums is None and not missing:
                sums = _sums(member)
                continue
            announced = missing.pop(member.name, None)
            if announced is None:
                raise hostile(f"{member.name!r} is not in its manifest, or is there twice")
            if member.size != announced.size_bytes:
                raise hostile(f"{member.name!r} does not have the announced size")
            if member.name == ROOTFS_DIFF and DELETED_FILES not in missing:
                found_sums[member.name] = _lay(member, staging, changes, limits)
            else:
                found_sums[member.name] = _write(member, staging / member.name)
    while source.read(CHUNK):
        pass  # padding: an upload has a sum of all of it
    if missing or sums is None:
        raise hostile(f"{', '.join(sorted(missing)[:3]) or ARCHIVE_SUMS} missing")
    for name, digest in found_sums.items():
        if digest != sums.get(name):
            raise CheckpointError(
                "the archive is damaged",
                details=f"{name} does not have its SHA-256 sum",
                resolution="export or copy it again",
            )
    if (staging / ROOTFS_DIFF).exists():
        deleted = parse_deleted(staging / DELETED_FILES)
        with (staging / ROOTFS_DIFF).open("rb") as layer:
            unpack_layer(layer, deleted, changes, limits.changed_files)
    return manifest


def _sums(member: Member) -> dict[str, str]:
    if member.size > MAX_MANIFEST_BYTES:
        raise hostile("its sums are too many")
    return parse_sums(b"".join(member.chunks))


def _lay(member: Member, staging: Path, changes: Path, limits: Limits) -> str:
    stream = Summed(member.chunks)
    deleted = parse_deleted(staging / DELETED_FILES)
    unpack_layer(io.BufferedReader(stream, CHUNK), deleted, changes, limits.changed_files)
    return stream.finish()


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
