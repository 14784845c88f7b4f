"""Output that comes in small pieces is sent, received and written in few."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.api.streams import MOST_GATHERED_BYTES, gathered
from warmboot.cli.terminal.raw_output import RawOutput
from warmboot.client.results import LogChunk
from warmboot.client.streams import demultiplexed

LINE = b"hello\n"
LINES = 50_000


def frame(tag: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", tag, len(data)) + data


async def test_lines_that_are_there_are_few_pieces_of_a_bounded_size() -> None:
    async def lines() -> AsyncGenerator[bytes, None]:
        for _ in range(LINES):
            yield LINE

    pieces = [piece async for piece in gathered(lines())]
    assert b"".join(pieces) == LINE * LINES
    assert len(pieces) <= len(LINE) * LINES // MOST_GATHERED_BYTES + 1
    assert max(map(len, pieces)) < MOST_GATHERED_BYTES + len(LINE)


async def test_what_is_there_is_passed_on_before_what_has_to_be_waited_for() -> None:
    more = asyncio.Event()

    async def lines() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"
        await more.wait()
        yield b"three"

    pieces = gathered(lines())
    async with asyncio.timeout(60):
        assert await anext(pieces) == b"onetwo"
        more.set()
        assert [piece async for piece in pieces] == [b"three"]


async def test_an_error_comes_after_what_came_before_it() -> None:
    async def lines() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise OSError("broken")

    pieces = gathered(lines())
    assert await anext(pieces) == b"one"
    with pytest.raises(OSError, match="broken"):
        await anext(pieces)


@pytest.mark.parametrize("waits", [True, False])
async def test_its_source_ends_with_whoever_reads_and_goes_no_further(waits: bool) -> None:
    made, closed = 0, False

    async def lines() -> AsyncGenerator[bytes, None]:
        nonlocal made, closed
        try:
            while True:
                made += 1
                yield LINE
                if waits:
                    await asyncio.Event().wait()
        finally:
            closed = True

    pieces = gathered(lines())
    await anext(pieces)
    await pieces.aclose()
    assert closed
    assert made * len(LINE) < 3 * MOST_GATHERED_BYTES


FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20)), max_size=20)


@given(frames=FRAMES, size=st.integers(1, 40))
def test_frames_are_taken_apart_wherever_they_are_cut(
    frames: list[tuple[int, bytes]], size: int
) -> None:
    wire = b"".join(frame(tag, data) for tag, data in frames)

    async def arriving() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(wire), size):
            yield wire[at : at + size]

    async def read() -> list[LogChunk]:
        return [chunk async for chunk in demultiplexed(arriving())]

    def bytes_of(chunks: list[tuple[int, bytes]]) -> list[tuple[int, int]]:
        return [(tag, byte) for tag, data in chunks for byte in data]

    seen = [(1 if chunk.stream == "stdout" else 2, chunk.data) for chunk in asyncio.run(read())]
    assert bytes_of(seen) == bytes_of(frames)


async def test_frames_that_come_together_are_one_chunk() -> None:
    async def arriving() -> AsyncGenerator[bytes, None]:
        yield frame(1, LINE) * 1000 + frame(2, LINE) * 1000

    chunks = [chunk async for chunk in demultiplexed(arriving())]
    assert chunks == [LogChunk("stdout", LINE * 1000), LogChunk("stderr", LINE * 1000)]


async def test_what_waits_to_be_written_is_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first write takes until all the rest is there."""
    written: list[tuple[int, bytes]] = []
    output = RawOutput()
    all_there = asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(target: int, data: bytes) -> None:
        asyncio.run_coroutine_threadsafe(all_there.wait(), loop).result(60)
        written.append((target, data))

    monkeypatch.setattr("warmboot.cli.terminal.raw_output.write_all", write)
    for _ in range(1000):
        await output.write("stdout", LINE)
        await output.write("stdout", LINE)
    for _ in range(1000):
        await output.write("stderr", LINE)
    all_there.set()
    async with asyncio.timeout(60):
        await output.finish()
    assert b"".join(data for _, data in written) == LINE * 3000
    assert len(written) <= 5
