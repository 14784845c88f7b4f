"""The logs that are kept of parked VMs are what Docker would have given."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from warmboot.host.vm import kept_output
from warmboot.host.vm.kept_output import LONGEST_ENTRY, KeptOutput
from warmboot.model.errors import HostError
from warmboot.model.sessions import LogChunk, Stream


def stamp(second: int) -> bytes:
    return f"2026-11-30T10:00:{second:02}.123456789Z".encode()


LINES = [
    (Stream.STDOUT, b"one\n"),
    (Stream.STDERR, b"two\n"),
    (Stream.STDOUT, b"x" * LONGEST_ENTRY),  # a longer line comes in pieces, each with its time
    (Stream.STDOUT, b"and its end\n"),
    (Stream.STDOUT, b"\n"),
    (Stream.STDERR, b"2026 is no time\n"),
    (Stream.STDOUT, b"no newline"),
]


async def cut(pieces: list[LogChunk], seed: int) -> AsyncIterator[LogChunk]:
    """As they may come: in pieces that end anywhere."""
    chance = random.Random(seed)
    for piece in pieces:
        at = 0
        while at < len(piece.data):
            size = chance.choice((1, 7, 31, 5000))
            yield LogChunk(piece.stream, piece.data[at : at + size])
            at += size


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_kept_is_what_was_written(tmp_path: Path, seed: int) -> None:
    kept, container = KeptOutput(tmp_path / "kept"), uuid4()
    assert await kept.read(container) is None
    given = [LogChunk(s, stamp(n) + b" " + data) for n, (s, data) in enumerate(LINES)]
    await kept.keep(container, cut(given, seed))

    async def read(**options: object) -> list[tuple[Stream, bytes]]:
        chunks = await kept.read(container, **options)  # type: ignore[arg-type]
        assert chunks is not None
        return [(one.stream, one.data) async for one in chunks]

    assert await read() == LINES
    assert await read(timestamps=True) == [(one.stream, one.data) for one in given]
    assert await read(tail=0) == []
    assert await read(tail=2) == LINES[-2:]
    assert await read(tail=99) == LINES
    at = datetime(2026, 11, 30, 10, 0, 2, tzinfo=UTC)
    assert await read(since=at) == LINES[2:]
    assert await read(until=at) == LINES[:2]
    await kept.tidy([container])
    assert await kept.read(container) is not None
    await kept.tidy([])
    assert await kept.read(container) is None


async def test_what_a_guest_says_without_times_or_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, container = KeptOutput(tmp_path / "kept"), uuid4()

    async def endless() -> AsyncIterator[LogChunk]:
        while True:
            yield LogChunk(Stream.STDOUT, b"x" * 40_000)

    monkeypatch.setattr(kept_output, "MOST_BYTES", 1 << 20)
    await kept.keep(container, cut([LogChunk(Stream.STDERR, b"said\n2026-99-99T99:99:99Z x")], 1))
    chunks = await kept.read(container, since=datetime.now(UTC))
    assert chunks is not None
    assert [one.data async for one in chunks] == [b"said\n", b"x"]
    with pytest.raises(HostError):
        await kept.keep(container, endless())
    assert await kept.read(container) is None, "what was kept before is an earlier log"
    assert list((tmp_path / "kept").iterdir()) == []
