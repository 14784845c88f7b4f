"""The memory pages of a cold checkpoint, compressed with zstd: each file changes by one rename.

    memory/pages-1.img  ── compress ──▶  memory/pages-1.img.zst
                        ◀── unpack ───

The new file is written beside ``memory``, synced and renamed into it; then the old one is removed.
A crash leaves one whole file or both: then the plain one counts. What is small stays plain, so all
that is asked of a checkpoint (its processes, whose memory it is) can be told of a cold one, too.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from warmboot.criu.runtime.program import PACKED
from warmboot.criu.runtime.sums import BLOCK_BYTES, SUMS, advice, crc32
from warmboot.model.errors import CheckpointError, DiskFull, HostError
from warmboot.system.concurrency import Stopped
from warmboot.system.files import sync

LEVEL = 7
"""As that of snapshots' memory."""

NEW = "changing"
_PAGES = "pages-*.img"
_CHUNK_BYTES = 1 << 20


def plain_pages(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint / "memory").glob(_PAGES))


def packed_pages(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint / "memory").glob(f"{_PAGES}{PACKED}"))


def pack(plain: Path, sums: tuple[int, ...] | None) -> Path:
    """A compressed copy of ``plain``, synced, not yet in its place, that gives it back.

    ``CheckpointError`` if ``plain`` is not what it was by its ``sums``; ``DiskFull``. Blocking.
    """
    new = plain.parents[1] / f"{NEW}-{plain.name}{PACKED}"
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    whole = False
    try:
        with plain.open("rb") as source, new.open("wb") as target:
            compressor.copy_stream(source, target, read_size=_CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())
        with new.open("rb") as packed:
            found = _sums(packed)
        if sums is None:
            with plain.open("rb") as source:
                sums = _sums_of_blocks(iter(lambda: source.read(BLOCK_BYTES), b""))
        whole = found == sums
    except OSError as error:
        raise _failed("compressed", error) from error
    finally:
        if not whole:
            new.unlink(missing_ok=True)
    if not whole:
        raise damaged(plain)
    return new


def kept_sums(plain: Path) -> tuple[int, ...] | None:
    """The sums of a file of ``memory``; ``None``: the checkpoint has none."""
    checkpoint = plain.parents[1]
    try:
        kept = json.loads((checkpoint / SUMS).read_text())
        return tuple(kept[str(plain.relative_to(checkpoint))])
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(plain) from error


def take(new: Path, plain: Path) -> None:
    """Have the compressed ``new`` instead of ``plain``."""
    try:
        new.rename(plain.with_name(plain.name + PACKED))
        sync(plain.parent)
        plain.unlink()
    except OSError as error:
        raise _failed("compressed", error) from error


def unpack(checkpoint: Path, stop: threading.Event) -> bool:
    """Have all of it plain; whether anything was compressed. Its sums are for the caller to check.

    ``CheckpointError`` for what is no zstd any more, ``DiskFull``, ``Stopped``: then the file at
    which it stopped is as it was. Blocking.
    """
    _drop_second_forms(checkpoint)
    packed = packed_pages(checkpoint)
    for one in packed:
        plain = one.with_name(one.name.removesuffix(PACKED))
        new = checkpoint / f"{NEW}-{plain.name}"
        try:
            with one.open("rb") as source, new.open("wb") as target:
                for chunk in zstandard.ZstdDecompressor().read_to_iter(source, _CHUNK_BYTES):
                    if stop.is_set():
                        raise Stopped
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            new.rename(plain)
            sync(plain.parent)
            one.unlink()
        except zstandard.ZstdError as error:
            raise damaged(one, str(error)) from error
        except OSError as error:
            raise _failed("unpacked", error) from error
        finally:
            new.unlink(missing_ok=True)
    return bool(packed)


def tidy(checkpoint: Path) -> None:
    """Remove what a change that broke off has left: half a file, or the other one of two."""
    for left in checkpoint.glob(f"{NEW}-*"):
        left.unlink(missing_ok=True)
    _drop_second_forms(checkpoint)


def _drop_second_forms(checkpoint: Path) -> None:
    for plain in plain_pages(checkpoint):
        plain.with_name(plain.name + PACKED).unlink(missing_ok=True)


def damaged(path: Path, why: str = "") -> CheckpointError:
    return CheckpointError(
        "the checkpoint is damaged",
        details=f"{path} is not what was written" + (f": {why}" if why else ""),
        resolution=advice(path.parents[1]),
    )


def _sums(packed: IO[bytes]) -> tuple[int, ...]:
    """Of what is in it."""
    with zstandard.ZstdDecompressor().stream_reader(packed) as plain:
        return _sums_of_blocks(_blocks(plain))


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        while len(block) < BLOCK_BYTES and (more := stream.read(BLOCK_BYTES - len(block))):
            block += more
        yield block


def _sums_of_blocks(blocks: Iterator[bytes]) -> tuple[int, ...]:
    size, found = 0, []
    for block in blocks:
        size += len(block)
        found.append(crc32(block))
    return (size, *found)


def _failed(what: str, error: OSError) -> DiskFull | HostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"the checkpoint could not be {what}",
            details=str(error),
            resolution="free some space below MANAGER_CHECKPOINT_ROOT (`warmboot worker "
            "checkpoints WORKER --rm NAME`), then try again; the checkpoint is as it was",
        )
    return HostError(f"the checkpoint could not be {what}", details=str(error))
