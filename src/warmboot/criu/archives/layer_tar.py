"""The members of a layer's tar, as ``layers`` writes it or a warmboot before wrote it.

A stranger's archive may come this way, so this reads what these two write and refuses the rest:
checksums, known kinds, numbers within bounds, names that stay below. It never writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from warmboot.criu.archives.layers import (
    CARRIED,
    CARRIED_NAMES,
    KIND,
    MAX_EXTENTS,
    MAX_RECORDS,
    MAX_SIZE,
    OPAQUE,
    SOCKET,
    XATTR,
    may_have,
)
from warmboot.criu.archives.plain_tar import BLOCK, content, exactly, hostile, octal, parse_header

MAX_LONG_NAME = 65_536
MAX_ATTRIBUTE = 65_536
MAX_COMPONENT = 255
_NUMBER = 1 << 32
_DIGITS = 20
_FAR = 1 << 34
"""Seconds; the file systems that containers are kept on know no later time."""
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"1": "hard link",
    b"2": "link",
    b"3": "c",
    b"4": "b",
    b"5": "folder",
    b"6": "FIFO",
}

Records = dict[str, bytes]
Extents = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a layer. ``parts`` are the names on the way to it; none: the root itself.

    ``extents`` are where a file of ``size`` has data; its ``chunks`` are that data alone.
    """

    parts: tuple[str, ...]
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: str
    device: tuple[int, int]
    attributes: dict[str, bytes]
    extents: Extents
    chunks: Iterator[bytes]

    @property
    def name(self) -> str:
        return "/" + os.fsencode("/".join(self.parts)).decode("utf-8", "backslashreplace")


def entries(stream: IO[bytes], max_entries: int) -> Iterator[Entry]:
    """``InvalidRequest`` at the first thing that has no place in a layer.

    An entry's chunks are read, or passed over, before the next one is asked for.
    """
    records: Records = {}
    for _ in range(max_entries):
        header = exactly(stream, BLOCK)
        if not header.strip(b"\0"):
            return
        name, size, kind = parse_header(header)
        if kind in (b"L", b"K"):
            if size > MAX_LONG_NAME:
                raise hostile("a changed file's name is too long")
            text = b"".join(content(stream, size)).rstrip(b"\0")
            records["path" if kind == b"L" else "linkpath"] = text
        elif kind == b"x":
            if size > MAX_RECORDS:
                raise hostile("a changed file has too many attributes")
            records |= _records(b"".join(content(stream, size)))
        else:
            found = _entry(stream, header, name, size, kind, records)
            yield found
            for _ in found.chunks:
                pass
            records = {}
    raise hostile(f"it has more than {max_entries} changed files")


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path, each a plain name; ``.`` has none."""
    found = tuple(path.removeprefix("./").rstrip("/").split("/"))
    if found in (("",), (".",)):
        return ()
    for part in found:
        try:
            long = len(os.fsencode(part)) > MAX_COMPONENT
        except UnicodeEncodeError as error:
            raise hostile("a changed file's name is no name") from error
        if part in ("", ".", "..") or "\0" in part or long:
            raise hostile(f"the changed file {path[:100]!r} leaves the container")
    return found


def _entry(
    stream: IO[bytes], header: bytes, name: bytes, size: int, kind: bytes, records: Records
) -> Entry:
    path = os.fsdecode(records.get("GNU.sparse.name", records.get("path", name)))
    what = _KINDS.get(kind)
    if records.get(KIND) == SOCKET.encode() and what == "file":
        what = "socket"
    device = octal(header[329:337]), octal(header[337:345])
    if what is None or (what in "bc" and not may_have(what, *device)):
        raise hostile(f"the changed file {path[:100]!r} is nothing that a container may have")
    size = _number(records, "size", size, MAX_SIZE)
    if size and what != "file":
        raise hostile(f"the changed file {path[:100]!r} has content, but is a {what}")
    chunks = content(stream, size)
    whole, extents = size, [(0, size)]
    if "GNU.sparse.realsize" in records:
        whole = _number(records, "GNU.sparse.realsize", 0, MAX_SIZE)
        extents, chunks = _sparse(chunks, size, whole)
    return Entry(
        parts=parts_of(path),
        kind=what,
        mode=octal(header[100:108]) & 0o7777,
        uid=_number(records, "uid", _owner(header[108:116]), _NUMBER),
        gid=_number(records, "gid", _owner(header[116:124]), _NUMBER),
        mtime_ns=_time(records.get("mtime"), header[136:148]),
        size=whole,
        target=os.fsdecode(records.get("linkpath", header[157:257].rstrip(b"\0"))),
        device=device,
        attributes=_attributes(records, path),
        extents=extents,
        chunks=chunks,
    )


def _records(text: bytes) -> Records:
    found: Records = {}
    while text:
        length, space, _ = text.partition(b" ")
        if not space or not length.isdigit() or len(length) > 10:
            raise hostile("an extended header is damaged")
        record, text = text[: int(length)], text[int(length) :]
        key, equals, value = record[len(length) + 1 :].partition(b"=")
        if len(record) != int(length) or not equals or not value.endswith(b"\n"):
            raise hostile("an extended header is damaged")
        found[os.fsdecode(key)] = value[:-1]
    return found


def _number(records: Records, key: str, otherwise: int, limit: int) -> int:
    value = records.get(key)
    if value is not None and (not value.isdigit() or len(value) > 20):
        raise hostile("a header has something else where a number belongs")
    found = otherwise if value is None else int(value)
    if found >= limit:
        raise hostile("a header has a number out of its bounds")
    return found


def _owner(text: bytes) -> int:
    return int.from_bytes(text[1:], "big") if text[0] == 0x80 else octal(text)


def _time(record: bytes | None, text: bytes) -> int:
    """In nanoseconds; what cannot be read is no reason to refuse a file."""
    try:
        if record is None:
            return (_owner(text) if text[0] != 0xFF else 0) % _FAR * 10**9
        seconds, _, rest = record.decode("ascii").partition(".")
        fraction = int(f"{rest:0<9.9}")
        whole = max(-_FAR, min(int(seconds), _FAR)) * 10**9
        return whole - fraction if seconds.startswith("-") else whole + fraction
    except ValueError:
        return 0


def _attributes(records: Records, path: str) -> dict[str, bytes]:
    found = {
        key.removeprefix(XATTR): value for key, value in records.items() if key.startswith(XATTR)
    }
    for key, value in found.items():
        known = key in CARRIED_NAMES or key.startswith(CARRIED)
        if not known or len(value) > MAX_ATTRIBUTE or (key == OPAQUE and value != b"y"):
            raise hostile(f"the changed file {path[:100]!r} has an attribute that cannot be")
    return found


def _sparse(chunks: Iterator[bytes], size: int, whole: int) -> tuple[Extents, Iterator[bytes]]:
    """The map at the front of the content, in whole blocks, and what is behind it."""
    read = bytearray()
    at = 0

    def more() -> None:
        chunk = next(chunks, b"")
        if not chunk:
            raise hostile("a file's map of its holes is cut off")
        read.extend(chunk)

    def number() -> int:
        nonlocal at
        while (end := read.find(b"\n", at)) < 0 and len(read) - at <= _DIGITS:
            more()
        text = bytes(read[at:end])
        if end < 0 or not text.isdigit() or len(text) > _DIGITS:
            raise hostile("a file's map of its holes is damaged")
        at = end + 1
        return int(text)

    count = number()
    if count > MAX_EXTENTS:
        raise hostile("a file has more holes than can be")
    extents = [(number(), number()) for _ in range(count)]
    at += -at % BLOCK
    while len(read) < at:
        more()
    behind = 0
    for begin, length in extents:
        if begin < behind or begin + length > whole:
            raise hostile("a file's map of its holes is damaged")
        behind = begin + length
    if at + sum(length for _, length in extents) != size:
        raise hostile("a file's map of its holes is damaged")
    return extents, _behind(bytes(read[at:]), chunks)


def _behind(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from chunks
