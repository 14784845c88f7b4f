"""What containers had written when their VMs were parked, which tells it without waking them.

A file for each: an entry for each line, with its stream and its time. It comes from a guest, which
may say what it likes: no more than ``MOST_BYTES`` are kept, and what does not begin with a time has
none.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from warmboot.model.errors import HostError
from warmboot.model.sessions import LogChunk, Stream
from warmboot.system.concurrency import finish
from warmboot.system.files import sync
from warmboot.system.on_failure import on_failure

MOST_BYTES = 256 << 20
LONGEST_ENTRY = 16 << 10
"""Docker logs a longer line in pieces, each with its time."""

AT_ONCE = 256 << 10
_HEAD = struct.Struct("!BBI")
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z) ")
_STREAMS = (Stream.STDOUT, Stream.STDERR)


@dataclass(frozen=True, slots=True)
class Entry:
    stream: Stream
    time: bytes
    """As Docker has it; empty if it is not known."""
    data: bytes

    def stored(self) -> bytes:
        head = _HEAD.pack(_STREAMS.index(self.stream), len(self.time), len(self.data))
        return head + self.time + self.data

    def chunk(self, timestamps: bool) -> LogChunk:
        begin = self.time + b" " if timestamps and self.time else b""
        return LogChunk(self.stream, begin + self.data)

    def is_within(self, since: datetime | None, until: datetime | None) -> bool:
        if not self.time or (since is None and until is None):
            return True
        try:  # to microseconds, as ``since`` and ``until`` are
            at = datetime.fromisoformat(self.time[:26].decode().rstrip("Z")).replace(tzinfo=UTC)
        except ValueError:  # a 13th month
            return True
        return (since is None or at >= since) and (until is None or at <= until)


class Entries:
    """Cuts a log that came with times into its entries."""

    def __init__(self) -> None:
        self._rest: defaultdict[Stream, bytes] = defaultdict(bytes)

    def feed(self, chunk: LogChunk) -> Iterator[Entry]:
        rest = self._rest[chunk.stream] + chunk.data
        at = 0
        while (entry := self._next(chunk.stream, rest, at)) is not None:
            found, at = entry
            yield found
        self._rest[chunk.stream] = rest[at:]

    def end(self) -> Iterator[Entry]:
        for stream, rest in self._rest.items():
            if rest:
                found = _TIME.match(rest)
                begins = found.end() if found else 0
                yield Entry(stream, found[1] if found else b"", rest[begins:])
        self._rest.clear()

    def _next(self, stream: Stream, rest: bytes, at: int) -> tuple[Entry, int] | None:
        """The entry that begins there, and where the next one does; ``None`` if it is not whole."""
        found = _TIME.match(rest, at)
        begins = found.end() if found else at
        newline = rest.find(b"\n", begins, begins + LONGEST_ENTRY)
        if newline < 0 and len(rest) - begins <= LONGEST_ENTRY:
            return None
        ends = newline + 1 if newline >= 0 else begins + LONGEST_ENTRY
        return Entry(stream, found[1] if found else b"", rest[begins:ends]), ends


class KeptOutput:
    def __init__(self, root: Path) -> None:
        self._root = root

    async def keep(self, container_id: UUID, chunks: AsyncIterator[LogChunk]) -> None:
        """Keep all of a log, with its times, in the place of what was kept; on the disk when this
        returns. ``HostError`` if it is too long; ``OSError``: then nothing is kept."""
        await self.forget(container_id)
        path = self._path(container_id)
        temporary = path.with_suffix(".new")
        await asyncio.to_thread(self._root.mkdir, mode=0o700, parents=True, exist_ok=True)
        async with on_failure(lambda: asyncio.to_thread(temporary.unlink, missing_ok=True)):
            with await asyncio.to_thread(_open_new, temporary) as file:
                await self._write(file, chunks)
            await finish(asyncio.to_thread(_rename, temporary, path))

    async def _write(self, file: BinaryIO, chunks: AsyncIterator[LogChunk]) -> None:
        entries, written, waiting = Entries(), 0, bytearray()
        async for chunk in chunks:
            for entry in entries.feed(chunk):
                waiting += entry.stored()
            if len(waiting) >= AT_ONCE:
                written += len(waiting)
                if written > MOST_BYTES:
                    raise HostError(f"its log is longer than {MOST_BYTES >> 20} MiB")
                await finish(asyncio.to_thread(file.write, bytes(waiting)))
                waiting.clear()
        for entry in entries.end():
            waiting += entry.stored()
        await finish(asyncio.to_thread(_write_and_sync, file, bytes(waiting)))

    async def read(
        self,
        container_id: UUID,
        *,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[LogChunk, None] | None:
        """As ``docker logs`` gives it, an entry at a time; ``None`` if nothing was kept."""
        try:
            file = await asyncio.to_thread(self._path(container_id).open, "rb")
        except FileNotFoundError:
            return None

        async def chunks() -> AsyncGenerator[LogChunk, None]:
            with file:
                skipped = 0
                if tail is not None:
                    skipped = max(0, await asyncio.to_thread(_count, file) - tail)
                async with aclosing(_entries(file, skipped)) as entries:
                    async for entry in entries:
                        if entry.is_within(since, until):
                            yield entry.chunk(timestamps)

        return chunks()

    async def forget(self, container_id: UUID) -> None:
        """Idempotent."""
        await asyncio.to_thread(self._path(container_id).unlink, missing_ok=True)

    async def tidy(self, known: Collection[UUID]) -> None:
        """Remove what is of containers that are not there any more, and what was half written."""
        names = {self._path(container_id).name for container_id in known}
        await asyncio.to_thread(self._tidy, names)

    def _tidy(self, names: Collection[str]) -> None:
        for path in self._root.glob("*"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _path(self, container_id: UUID) -> Path:
        return self._root / f"{container_id}.output"


async def _entries(file: BinaryIO, skipped: int) -> AsyncGenerator[Entry, None]:
    while found := await asyncio.to_thread(_some, file, skipped):
        seen, entries = found
        skipped = max(0, skipped - seen)
        for entry in entries:
            yield entry


def _some(file: BinaryIO, skipped: int) -> tuple[int, list[Entry]] | None:
    """How many entries come next, and those of them that are not skipped; ``None`` at the end."""
    seen, size, entries = 0, 0, list[Entry]()
    while size < AT_ONCE and (head := file.read(_HEAD.size)):
        if len(head) < _HEAD.size:
            break
        stream, of_time, of_data = _HEAD.unpack(head)
        time, data = file.read(of_time), file.read(of_data)
        seen, size = seen + 1, size + len(head) + len(time) + len(data)
        if seen > skipped:
            entries.append(Entry(_STREAMS[stream % 2], time, data))
    return (seen, entries) if seen else None


def _count(file: BinaryIO) -> int:
    count = 0
    while found := _some(file, 1 << 62):
        count += found[0]
    file.seek(0)
    return count


def _open_new(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _write_and_sync(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    sync(path.parent)
