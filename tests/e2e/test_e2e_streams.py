"""Streams of real containers: every byte as it was, and the end as the program ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.session_streams import PAUSES, PIECES, printed, read, write, write_for_ever
from tests.support.vms import TINY, Site

from warmboot.client import Client

EVERY_BYTE = bytes((*range(1, 256), 0))
OCTAL = "".join(f"\\{byte:03o}" for byte in EVERY_BYTE)
MANY = f"i=0; while [ $i -lt 100 ]; do printf '{OCTAL}'; i=$((i+1)); done; exit 5"
LIMIT_S = 300.0

Case = Callable[[Client, list[bytes], list[float]], Awaitable[None]]


async def piped(site: Site, feed: str, *words: str) -> tuple[int | None, bytes, bytes]:
    """``feed | warmboot words…``"""
    reader, writer = os.pipe()
    feeding = await asyncio.create_subprocess_exec(
        "sh", "-c", feed, stdout=writer, stderr=asyncio.subprocess.DEVNULL
    )
    os.close(writer)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.cli", *words),
        env=site.environment,
        stdin=reader,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(reader)
    try:
        out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(feeding.wait(), LIMIT_S)
    return process.returncode, out, err


@pytest.mark.timeout(900)
async def test_every_byte_of_run_and_of_its_log_is_as_it_was(site: Site) -> None:
    words = ("run", "--name", "c", TINY, "sh", "-c", MANY)
    assert await piped(site, "true", *words) == (5, EVERY_BYTE * 100, b"")
    code, logged, _ = await piped(site, "true", "logs", "c")
    assert (code, logged) == (0, EVERY_BYTE * 100)


@pytest.mark.timeout(900)
async def test_a_program_that_ends_at_once_ends_run_i(site: Site) -> None:
    words = ("run", "-i", "--rm", TINY, "sh", "-c", "echo hi; exit 7")
    assert await piped(site, "exec sleep 20", *words) == (7, b"hi\n", b"")
    echoed = await piped(site, f"printf '{OCTAL}'", "run", "-i", "--rm", TINY, "cat")
    assert echoed == (0, EVERY_BYTE, b"")
    async with site.client() as client:
        assert await client.containers.list(all_states=True) == []


@pytest.mark.timeout(900)
async def test_input_that_nobody_reads_is_no_error(site: Site) -> None:
    await site.run("c", TINY, "sleep", "1000")
    begun = time.monotonic()
    head = ("exec", "-i", "c", "busybox", "head", "-n", "1")
    assert await piped(site, "yes", *head) == (0, b"y\n", b"")
    words = ("exec", "-i", "c", "sh", "-c", "echo out; exit 3")
    assert await piped(site, "head -c 200M /dev/zero", *words) == (3, b"out\n", b"")
    print(f"both took {time.monotonic() - begun:.1f} s")


@pytest.mark.timeout(900)
async def test_a_program_that_is_not_there_is_127_and_leaves_nothing(site: Site) -> None:
    code, out, err = await piped(site, "true", "run", "--name", "c", TINY, "/no/such/program")
    assert (code, out) == (127, b"")
    assert b"no program '/no/such/program'" in err
    async with site.client() as client:
        assert await client.containers.list(all_states=True) == []


@pytest.fixture
async def busy(site: Site) -> AsyncIterator[Client]:
    """With a container ``c`` to run commands in."""
    await site.run("c", TINY, "sleep", "1000")
    async with site.client() as client:
        yield client


async def reads_all(client: Client, pieces: list[bytes], pauses: list[float]) -> None:
    async with client.containers.exec("c", ["cat"], stdin=True) as s:
        output, _ = await asyncio.gather(read(s, pauses), write(s, pieces, pauses))
        assert (output, s.exit_code) == (b"".join(pieces), 0)


async def ends_first(client: Client, pieces: list[bytes], pauses: list[float]) -> None:
    data = b"".join(pieces)[:1000]
    command = ["sh", "-c", f"{printed(data)}; exit {len(pieces)}"]
    async with client.containers.exec("c", command, stdin=True) as s:
        writing = asyncio.create_task(write_for_ever(s))
        assert (await read(s, pauses), s.exit_code) == (data, len(pieces))
        writing.cancel()
        await asyncio.wait({writing})


async def goes_before_the_end(client: Client, pieces: list[bytes], pauses: list[float]) -> None:
    command = ["sh", "-c", "while echo y; do :; done"]
    async with client.containers.exec("c", command, stdin=True) as s:
        output = aiter(s)
        for _ in pieces[:3]:
            assert set((await anext(output)).data) <= set(b"y\n")


@settings(
    deadline=None,
    derandomize=True,
    max_examples=3,
)
@given(
    cases=st.permutations([reads_all, ends_first, goes_before_the_end]),
    pieces=st.lists(PIECES, min_size=3, max_size=3),
    pauses=PAUSES,
)
@pytest.mark.timeout(900)
async def test_any_bytes_in_any_pieces_and_any_order_of_ends(
    busy: Client, cases: list[Case], pieces: list[list[bytes]], pauses: list[float]
) -> None:
    """At the same time in one container, so that it takes seconds."""
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            *(case(busy, these, pauses) for case, these in zip(cases, pieces, strict=True))
        )
        async with busy.containers.exec("c", ["echo", "hi"]) as session:
            assert await read(session, [0.0]) == b"hi\n"
