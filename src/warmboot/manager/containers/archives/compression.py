"""Compressed archives: told by how they begin, and unpacked piece by piece."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, cast

import zstandard

from warmboot.manager.containers.archives.contents import damage, no_archive

_CHUNK = 1 << 20
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


@contextlib.contextmanager
def _zstd(path: Path) -> Iterator[IO[bytes]]:
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader,
    ):
        yield cast("IO[bytes]", reader)


Opener = Callable[[Path], contextlib.AbstractContextManager[IO[bytes]]]

_FORMS: dict[bytes, Opener] = {
    b"\x1f\x8b": cast("Opener", gzip.GzipFile),
    b"BZh": cast("Opener", bz2.BZ2File),
    b"\xfd7zXZ\0": cast("Opener", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": _zstd,
}
_REFUSED = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
}


def opener_of(path: Path) -> Opener | None:
    """How it is unpacked; ``None`` if it is not compressed. ``InvalidRequest`` names what is not
    understood."""
    with path.open("rb") as file:
        begin = file.read(8)
    for magic, name in _REFUSED.items():
        if begin.startswith(magic):
            raise no_archive(f"it is compressed as {name}; gzip, bzip2, xz and zstd are understood")
    return next((opener for magic, opener in _FORMS.items() if begin.startswith(magic)), None)


async def unpacked(path: Path, opener: Opener) -> AsyncIterator[bytes]:
    """Its content, piece by piece; ``InvalidRequest`` if it is damaged."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(opener(path))
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk
        except _DAMAGED as error:
            raise no_archive(damage(error)) from error
