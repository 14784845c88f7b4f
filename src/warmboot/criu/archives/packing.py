"""Writes an archive: everything is read twice, and nothing is copied on the disk but into it.

The manifest stands at the front, with the size and the sum of all that follows. So it is all summed
first, the worker's files too, as the tar that they are going to be; then it is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import zstandard

from warmboot.criu.archives.layers import pack_changes
from warmboot.criu.archives.manifests import (
    CHECKPOINT_FOLDER,
    DELETED_FILES,
    MANIFEST,
    ROOTFS_DIFF,
    manifest_json,
)
from warmboot.criu.checkpoint import OUR_FILES
from warmboot.model.checkpoint import ArchiveManifest
from warmboot.model.errors import CheckpointError, DiskFull, NotSupported
from warmboot.model.runtime_image import FileSum

COMPRESSION_LEVEL = 3
SCRATCH = ".warmboot-export-"
MAX_MANIFEST_BYTES = 64 << 20
MAX_DELETED_BYTES = 256 << 20


class _Counted(io.RawIOBase):
    """Sums what is written to it, and passes it on to ``target`` if there is one."""

    def __init__(self, target: IO[bytes] | None = None) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: object, /) -> int:
        part = cast(bytes, data)
        self._digest.update(part)
        self.size_bytes += len(part)
        if self._target is not None:
            self._target.write(part)
        return len(part)

    def sum(self) -> FileSum:
        return FileSum(self.size_bytes, self._digest.hexdigest())


def write_archive(
    folder: Path,
    upper: Path,
    manifest: ArchiveManifest,
    metadata: dict[str, bytes],
    destination: Path,
) -> ArchiveManifest:
    """Write the images in ``folder`` and the changes in ``upper`` to ``destination``.

    ``NotSupported``, ``DiskFull``.
    """
    try:
        layer = _Counted()
        deleted = pack_changes(upper, cast(IO[bytes], layer))
        metadata = {**metadata, DELETED_FILES: json.dumps(deleted).encode()}
        images = {
            f"{CHECKPOINT_FOLDER}{path.name}": path
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name not in OUR_FILES
        }
        sums = {name: _sum_bytes(content) for name, content in metadata.items()}
        sums[ROOTFS_DIFF] = layer.sum()
        sums |= {name: _sum_file(path) for name, path in images.items()}
        manifest = replace(manifest, files=sums)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=destination.parent) as scratch:
            partial = Path(scratch) / "archive"
            _write(partial, manifest, metadata, upper, images)
            partial.replace(destination)
    except OSError as error:
        raise DiskFull(
            "the archive could not be written",
            details=str(error),
            resolution=f"check that {destination.parent} has free space and is writable",
        ) from error
    return manifest


def _write(
    path: Path,
    manifest: ArchiveManifest,
    metadata: dict[str, bytes],
    upper: Path,
    images: dict[str, Path],
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
        _add_layer(tar, upper, manifest.files[ROOTFS_DIFF])
        folder_entry = tarfile.TarInfo(CHECKPOINT_FOLDER)  # checkpointctl looks for it
        folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder_entry)
        for name, one in images.items():
            with one.open("rb") as content_file:
                _add(tar, name, content_file)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _add_layer(tar: tarfile.TarFile, upper: Path, announced: FileSum) -> None:
    """Written while it is made: it is never on the disk by itself."""
    target = cast(IO[bytes], tar.fileobj)
    head = _member(ROOTFS_DIFF, announced.size_bytes).tobuf(tarfile.GNU_FORMAT)
    target.write(head)
    layer = _Counted(target)
    pack_changes(upper, cast(IO[bytes], layer))
    if layer.sum() != announced:
        raise CheckpointError(
            "the worker's files have changed while they were exported",
            details=f"{upper} is not what it was a moment ago",
            resolution="see to it that nobody writes there, then export again",
        )
    padding = -layer.size_bytes % tarfile.BLOCKSIZE
    target.write(bytes(padding))
    tar.offset += len(head) + layer.size_bytes + padding


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = _member(name, content.seek(0, os.SEEK_END))
    content.seek(0)
    tar.addfile(member, content)


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode, member.mtime = 0o600, int(datetime.now(UTC).timestamp())
    return member


def _sum_bytes(content: bytes) -> FileSum:
    return FileSum(len(content), hashlib.sha256(content).hexdigest())


def _sum_file(path: Path) -> FileSum:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileSum(file.tell(), digest)
