"""Sessions over the API with a manager on simulated VMs: any bytes, chunks, readers and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.desks import Desk, desks
from tests.support.session_streams import PAUSES, PIECES, printed, read, write, write_for_ever

pytestmark = pytest.mark.slow

LIMIT_S = 60.0


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with desks() as one:
        await one.client.containers.create(image="busybox", name="c", command=["sleep", "1000"])
        await one.client.containers.wait("c", "running")
        yield one


once = settings(
    deadline=None,
    max_examples=40,
)


@once
@given(pieces=PIECES, writes=PAUSES, reads=PAUSES)
async def test_what_goes_in_comes_out_whoever_is_slow(
    desk: Desk, pieces: list[bytes], writes: list[float], reads: list[float]
) -> None:
    async with asyncio.timeout(LIMIT_S), desk.client.containers.exec("c", ["cat"], stdin=True) as s:
        output, _ = await asyncio.gather(read(s, reads), write(s, pieces, writes))
        assert output == b"".join(pieces)
        assert s.exit_code == 0


@once
@given(data=st.binary(max_size=40), code=st.integers(0, 255), reads=PAUSES, endless=st.booleans())
async def test_the_program_s_end_is_the_session_s_whatever_is_still_sent(
    desk: Desk, data: bytes, code: int, reads: list[float], endless: bool
) -> None:
    command = ["sh", "-c", f"{printed(data)}; exit {code}"]
    async with asyncio.timeout(LIMIT_S), desk.client.containers.exec("c", command, stdin=True) as s:
        writing = asyncio.create_task(write_for_ever(s) if endless else asyncio.sleep(0))
        assert await read(s, reads) == data
        assert s.exit_code == code
        writing.cancel()
        await asyncio.wait({writing})


@once
@given(command=st.sampled_from([["yes"], ["cat"], ["sleep", "1000"]]), taken=st.integers(0, 3))
async def test_a_client_that_goes_leaves_no_session(
    desk: Desk, command: list[str], taken: int
) -> None:
    async with asyncio.timeout(LIMIT_S), desk.client.containers.exec("c", command, stdin=True) as s:
        await s.write(b"x")
        if command[0] == "yes":
            output = aiter(s)
            for _ in range(taken):
                assert set((await anext(output)).data) <= set(b"y\n")
    async with asyncio.timeout(LIMIT_S):
        async with desk.client.containers.exec("c", ["echo", "hi"]) as s:
            assert await read(s, [0.0]) == b"hi\n"


@once
@given(data=st.binary(min_size=1, max_size=60), code=st.integers(0, 255), late=st.booleans())
async def test_one_that_is_attached_first_misses_nothing(
    desk: Desk, data: bytes, code: int, late: bool
) -> None:
    containers = desk.client.containers
    made = await containers.create(
        image="busybox",
        command=["sh", "-c", f"{printed(data)}; exit {code}"],
        boot="cold",
        attach=True,
        auto_remove=True,
        stdin_open=late,
    )
    if late:
        await containers.wait(made, "booted")
    async with asyncio.timeout(LIMIT_S), containers.attach(made, logs=False) as session:
        assert await read(session, [0.0]) == data
        assert session.exit_code == code
