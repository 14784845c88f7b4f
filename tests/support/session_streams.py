"""Sessions with any bytes in any pieces, and readers and writers that are as slow as they like."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st

from warmboot.client import Session

PIECES = st.lists(st.binary(min_size=1, max_size=200) | st.just(bytes(40_000)), max_size=8)
PAUSES = st.lists(st.sampled_from([0.0, 0.0, 0.002, 0.02]), min_size=1, max_size=5)
"""Between one piece and the next, in seconds."""

ENDLESS = bytes(64 << 10)


def printed(data: bytes) -> str:
    """What makes a shell write ``data``."""
    return "printf '" + "".join(f"\\{byte:03o}" for byte in data) + "'"


async def read(session: Session, pauses: list[float]) -> bytes:
    """All of its standard output."""
    output, number = b"", 0
    async for chunk in session:
        assert chunk.stream == "stdout"
        output += chunk.data
        await asyncio.sleep(pauses[number % len(pauses)])
        number += 1
    return output


async def write(session: Session, pieces: list[bytes], pauses: list[float]) -> None:
    for number, piece in enumerate(pieces):
        await session.write(piece)
        await asyncio.sleep(pauses[number % len(pauses)])
    await session.write_eof()


async def write_for_ever(session: Session) -> None:
    while True:
        await session.write(ENDLESS)
