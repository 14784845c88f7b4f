"""What the runtime writes of a program that was not executed may come in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.docker.sessions import QuietSession
from warmboot.docker.unexecuted import ExecutedSession, Refusal, of_container, of_exec
from warmboot.model.errors import CommandNotFound
from warmboot.model.sessions import LogChunk, Stream

LINE = (
    b'{"msg":"exec container process (missing dynamic library?) `/a`: No such file or directory"}\n'
)
EXEC = b"exec: No such file or directory\n"
RUNTIME = b"OCI runtime exec failed: executable file `x` not found in $PATH: unknown\r\n"
KINDS = [(LINE, of_container, 1, 40), (EXEC, of_exec("/a"), 1, 8), (RUNTIME, of_exec("x"), 126, 26)]
Kind = tuple[bytes, Refusal, int, int]


def output_of(pieces: Sequence[bytes], refusal: Refusal, code: int) -> list[bytes]:
    async def chunks() -> AsyncGenerator[LogChunk, None]:
        for piece in pieces:
            yield LogChunk(Stream.STDERR, piece)

    async def read() -> list[bytes]:
        return [
            chunk.data async for chunk in ExecutedSession(QuietSession(chunks(), code), refusal)
        ]

    return asyncio.run(read())


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_a_refusal_is_an_error_wherever_it_was_cut(kind: Kind, data: st.DataObject) -> None:
    line, refusal, code, least = kind
    cuts = sorted(data.draw(st.sets(st.integers(least, len(line) - 1), max_size=4)))
    pieces = [line[a:b] for a, b in zip([0, *cuts], [*cuts, len(line)], strict=True)]
    with pytest.raises(CommandNotFound):
        output_of(pieces, refusal, code)


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_what_goes_on_after_it_is_a_programs_own(kind: Kind, data: st.DataObject) -> None:
    line, refusal, code, _ = kind
    cut = data.draw(st.integers(1, len(line) - 1))
    said = output_of([line[:cut], line[cut:], b"more\n", b"and more\n"], refusal, code)
    assert b"".join(said) == line + b"more\nand more\n"


def test_of_the_other_stream_it_is_none() -> None:
    async def chunks() -> AsyncGenerator[LogChunk, None]:
        yield LogChunk(Stream.STDERR, LINE[:50])
        yield LogChunk(Stream.STDOUT, LINE[50:])

    async def read() -> list[bytes]:
        return [
            chunk.data async for chunk in ExecutedSession(QuietSession(chunks(), 1), of_container)
        ]

    assert asyncio.run(read()) == [LINE[:50], LINE[50:]]
