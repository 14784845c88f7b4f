"""Writes an archive as a stream: everything is read once, and nothing is written to the disk.

The manifest stands at the front, with the size of all that follows; the sums are known only when it
has been read, and come last.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import zstandard

from warmboot.criu.archives.checked_files import CheckedFiles
from warmboot.criu.archives.layers import measure_changes, pack_changes
from warmboot.criu.archives.manifests import (
    ARCHIVE_SUMS,
    CHECKPOINT_FOLDER,
    DELETED_FILES,
    MANIFEST,
    ROOTFS_DIFF,
    manifest_json,
)
from warmboot.criu.checkpoint import OUR_FILES
from warmboot.model.checkpoint import ArchiveManifest
from warmboot.model.errors import CheckpointError, NotSupported
from warmboot.model.runtime_image import FileSum
from warmboot.system.concurrency import finish, in_own_thread

COMPRESSION_LEVEL = 3
MAX_MANIFEST_BYTES = 64 << 20
MAX_DELETED_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20


class _Summed(io.RawIOBase):
    """Passes on what is written to it or read from it, and sums it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: object, /) -> int:
        self._inner.write(self._counted(cast(bytes, data)))
        return len(cast(bytes, data))

    def read(self, size: int = -1, /) -> bytes:
        return self._counted(self._inner.read(size))

    def _counted(self, part: bytes) -> bytes:
        self._digest.update(part)
        self.size_bytes += len(part)
        return part

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Pipe(io.RawIOBase):
    """Writes all that it is given, at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: object, /) -> int:
        left = memoryview(cast(bytes, data))
        while left:
            left = left[os.write(self._descriptor, left) :]
        return len(cast(bytes, data))


@dataclass(frozen=True, slots=True)
class Contents:
    """What an archive is made of; ``checkpoint`` is the folder that has the sums, if one has them.

    ``images`` is the folder of CRIU's, ``layer`` that of what the container has changed.
    """

    manifest: ArchiveManifest
    metadata: dict[str, bytes]
    images: Path
    layer: Path
    checkpoint: Path | None = None


def write_archive(contents: Contents, target: IO[bytes]) -> None:
    """``NotSupported`` names what cannot travel, before anything is written.

    ``CheckpointError`` for what cannot be read, or is no longer what was written.
    """
    try:
        _write(contents, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CheckpointError(
            "the checkpoint could not be read",
            details=str(error),
            resolution="see the kernel's log: its disk may be damaged",
        ) from error


def _write(contents: Contents, target: IO[bytes]) -> None:
    changes = measure_changes(contents.layer)
    checked = CheckedFiles(contents.checkpoint)
    for folder in (contents.images, contents.layer):
        checked.check_names(folder)
    metadata = {**contents.metadata, DELETED_FILES: json.dumps(changes.deleted).encode()}
    images = {
        f"{CHECKPOINT_FOLDER}{path.name}": path
        for path in sorted(contents.images.iterdir())
        if path.is_file() and path.name not in OUR_FILES
    }
    sizes = {name: len(content) for name, content in metadata.items()}
    sizes[ROOTFS_DIFF] = changes.size_bytes
    sizes |= {name: path.stat().st_size for name, path in images.items()}
    files = {name: FileSum(size_bytes, "") for name, size_bytes in sizes.items()}
    head = manifest_json(replace(contents.manifest, files=files))
    if len(head) > MAX_MANIFEST_BYTES or len(metadata[DELETED_FILES]) > MAX_DELETED_BYTES:
        raise NotSupported(  # as an import would refuse it
            "the checkpoint cannot be exported",
            details=f"it has {len(files)} files, and its worker has deleted too many",
            resolution="keep what the worker creates and deletes so much of in a mount",
        )
    sums: dict[str, str] = {}
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, threads=-1)
    stream = cast(IO[bytes], compressor.stream_writer(target, closefd=False))
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, MANIFEST, io.BytesIO(head), len(head))
        for name, content in metadata.items():
            sums[name] = _add(tar, name, io.BytesIO(content), len(content))
        sums[ROOTFS_DIFF] = _add_layer(tar, contents.layer, changes.size_bytes, checked)
        folder_entry = tarfile.TarInfo(CHECKPOINT_FOLDER)  # checkpointctl looks for it
        folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder_entry)
        for name, path in images.items():
            with checked.open(str(path)) as content_file:
                sums[name] = _add(tar, name, content_file, sizes[name])
        text = json.dumps(sums).encode()
        _add(tar, ARCHIVE_SUMS, io.BytesIO(text), len(text))
    stream.close()  # only now: of a failure nothing more is sent than has been


def _add_layer(tar: tarfile.TarFile, layer: Path, size_bytes: int, checked: CheckedFiles) -> str:
    """Written while it is made: it is never on the disk by itself."""
    target = cast(IO[bytes], tar.fileobj)
    head = _member(ROOTFS_DIFF, size_bytes).tobuf(tarfile.GNU_FORMAT)
    target.write(head)
    summed = _Summed(target)
    pack_changes(layer, cast(IO[bytes], summed), checked.open)
    if summed.size_bytes != size_bytes:
        raise CheckpointError(
            "the worker's files have changed while they were exported",
            details=f"{layer} is not what it was a moment ago",
            resolution="see to it that nobody writes there, then export again",
        )
    padding = -size_bytes % tarfile.BLOCKSIZE
    target.write(bytes(padding))
    tar.offset += len(head) + size_bytes + padding
    return summed.hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size_bytes: int) -> str:
    summed = _Summed(content)
    tar.addfile(_member(name, size_bytes), cast(IO[bytes], summed))
    return summed.hexdigest()


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode, member.mtime = 0o600, int(datetime.now(UTC).timestamp())
    return member


async def stream_archive(contents: Contents) -> AsyncGenerator[bytes, None]:
    """The archive as it is written, as fast as it is taken. Errors as ``write_archive``."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()

    def write() -> None:
        try:
            write_archive(contents, cast(IO[bytes], _Pipe(writing)))
        finally:
            os.close(writing)

    reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader),
        io.FileIO(reading, "rb"),
    )
    written = in_own_thread(write, "export")  # it may be taken slowly
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            yield chunk
        await finish(written)
    finally:
        transport.close()  # who still writes notices
        with contextlib.suppress(Exception):
            await finish(written)
