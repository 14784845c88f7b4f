"""CRIU's image files, read as far as warmboot needs them.

An image is two 32-bit magic numbers (the inventory has one) and then entries, each a 32-bit length
and a protocol-buffers message, all little-endian. The few field numbers used here are from CRIU's
public ``images/*.proto`` and were seen in images of CRIU 4.2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmboot.model.errors import CheckpointError

COMMON_MAGIC = 0x54564319
INVENTORY_MAGIC = 0x58313116
PAGE_BYTES = 4096
AT_RANDOM = 25
RANDOM_BYTES = 16
MAX_ENTRY_BYTES = 64 << 20

Message = dict[int, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class ProcessImage:
    """A dumped process: ids as it saw them itself, and what makes it recognisable.

    ``layout`` is where the kernel put its stack, heap and arguments, at random. ``secret`` are the
    16 random bytes that the kernel gave it at ``exec`` (``AT_RANDOM``), at ``secret_address``; the
    dump has them unless their page is missing. A zombie has no memory and so neither.
    """

    pid: int
    parent: int
    layout: tuple[int, int, int] | None
    secret_address: int
    secret: bytes | None


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """What a checkpoint holds. ``size_bytes`` is without files that warmboot adds itself."""

    processes: tuple[ProcessImage, ...]
    tcp_connections: int
    size_bytes: int

    @property
    def root(self) -> ProcessImage:
        """The container's first process."""
        return _root_of(self.processes)


def read_dump(folder: Path, ignore: frozenset[str] = frozenset()) -> DumpFacts:
    """Read a checkpoint's folder; ``CheckpointError`` when it is incomplete or damaged."""
    try:
        _first(folder / "inventory.img")
        processes = tuple(
            _process(folder, _number(entry, 1), _number(entry, 2))
            for entry in _all(folder / "pstree.img")
        )
        _root_of(processes)
        files = [path for path in folder.iterdir() if path.name not in ignore]
        size_bytes = sum(path.stat().st_size for path in files)
    except FileNotFoundError as error:
        raise CheckpointError(
            "the checkpoint is incomplete",
            details=f"{error.filename} is missing",
            resolution="delete it and use another one",
        ) from error
    except PermissionError as error:
        raise unreadable(error) from error
    except (ValueError, IndexError, OSError, struct.error) as error:
        raise CheckpointError(
            "the checkpoint is damaged",
            details=f"{folder}: {error}",
            resolution="delete it and use another one",
        ) from error
    connections = sum(1 for path in files if path.name.startswith("tcp-stream-"))
    return DumpFacts(processes, connections, size_bytes)


def unreadable(error: OSError) -> CheckpointError:
    return CheckpointError(
        "warmboot is not allowed to read the files of a checkpoint",
        details=str(error),
        resolution="run warmboot as root",
    )


def _root_of(processes: Sequence[ProcessImage]) -> ProcessImage:
    for image in processes:
        if not image.parent:
            return image
    raise ValueError("no process is the first one")


def _process(folder: Path, pid: int, parent: int) -> ProcessImage:
    _first(folder / f"core-{pid}.img")
    if parent and not (folder / f"mm-{pid}.img").exists():
        return ProcessImage(pid, parent, layout=None, secret_address=0, secret=None)
    memory = _first(folder / f"mm-{pid}.img")
    auxiliary = list(_numbers(memory, 13))
    pairs = dict(zip(auxiliary[::2], auxiliary[1::2], strict=False))
    address = pairs.get(AT_RANDOM, 0)
    return ProcessImage(
        pid=pid,
        parent=parent,
        layout=(_number(memory, 5), _number(memory, 6), _number(memory, 8)),
        secret_address=address,
        secret=_dumped_bytes(folder, pid, address) if address else None,
    )


def _dumped_bytes(folder: Path, pid: int, address: int) -> bytes | None:
    """The 16 bytes at ``address``; ``None`` when their page is not in this dump."""
    entries = _entries(folder / f"pagemap-{pid}.img")
    head = next(entries, None)
    if head is None:
        raise ValueError(f"pagemap-{pid}.img is empty")
    offset = 0
    for entry in entries:
        start = _number(entry, 1)
        pages = _number(entry, 5) or _number(entry, 2)
        in_parent = bool(_number(entry, 3)) or _number(entry, 4) & 1
        present = not in_parent and (4 not in entry or bool(_number(entry, 4) & 4))
        length = pages * PAGE_BYTES
        if start <= address and address + RANDOM_BYTES <= start + length:
            if not present:
                return None
            with (folder / f"pages-{_number(head, 1)}.img").open("rb") as file:
                file.seek(offset + address - start)
                found = file.read(RANDOM_BYTES)
            if len(found) != RANDOM_BYTES:
                raise ValueError(f"pages-{_number(head, 1)}.img is too short")
            return found
        if present:
            offset += length
    return None


def _entries(path: Path) -> Iterator[Message]:
    with path.open("rb") as file:
        (magic,) = struct.unpack("<I", file.read(4))
        if magic not in (COMMON_MAGIC, INVENTORY_MAGIC):
            raise ValueError(f"{path.name} is no CRIU image")
        if magic == COMMON_MAGIC:
            file.read(4)
        while header := file.read(4):
            (length,) = struct.unpack("<I", header)
            if length > MAX_ENTRY_BYTES:
                raise ValueError(f"{path.name} has an entry of {length} bytes")
            body = file.read(length)
            if len(body) != length:
                raise ValueError(f"{path.name} is cut off")
            yield decode(body)


def _all(path: Path) -> list[Message]:
    messages = list(_entries(path))
    if not messages:
        raise ValueError(f"{path.name} is empty")
    return messages


def _first(path: Path) -> Message:
    for message in _entries(path):
        return message
    raise ValueError(f"{path.name} is empty")


def decode(body: bytes) -> Message:
    """A protocol-buffers message as numbers and byte strings by field number."""
    message: Message = {}
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        field, kind = key >> 3, key & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(body, at)
        elif kind == 2:
            length, at = _varint(body, at)
            value = body[at : at + length]
            if len(value) != length:
                raise ValueError("a message is cut off")
            at += length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value = int.from_bytes(body[at : at + width], "little")
            at += width
        else:
            raise ValueError(f"a message has a field of unknown kind {kind}")
        message.setdefault(field, []).append(value)
    return message


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _numbers(message: Message, field: int) -> Iterator[int]:
    """A repeated number, packed or not."""
    for value in message.get(field, []):
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            yield number


def _number(message: Message, field: int) -> int:
    return next(_numbers(message, field), 0)
