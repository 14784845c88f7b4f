"""Calls between two processes of ours, over a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from warmboot.system import call_channel
from warmboot.system.call_channel import CallChannel, CallRefused, ChannelClosed, Serve

TIMEOUT_S = 60.0


async def echo(call: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if call == "refuse":
        raise CallRefused("not today")
    if call == "slow":
        await asyncio.sleep(0.05)  # longer than any other call takes
    return {"call": call, **given}


@contextlib.asynccontextmanager
async def channels(left: Serve = echo, right: Serve = echo) -> AsyncIterator[list[CallChannel]]:
    made, running = [], []
    for sock, serve in zip(socket.socketpair(), (left, right), strict=True):
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        made.append(CallChannel(reader, writer, serve))
        running.append(asyncio.create_task(made[-1].run()))
    async with asyncio.timeout(TIMEOUT_S):
        try:
            yield made
        finally:
            for channel in made:
                channel.close()
            await asyncio.gather(*running)


async def test_either_side_calls_and_answers_come_in_any_order() -> None:
    async with channels() as (one, two):
        slow = asyncio.create_task(one.call("slow", number=1))
        assert await one.call("quick", number=2) == {"call": "quick", "number": 2}
        assert await two.call("back", of="ü\n") == {"call": "back", "of": "ü\n"}
        assert await slow == {"call": "slow", "number": 1}


async def test_a_refusal_is_raised_in_its_words() -> None:
    async with channels() as (one, _):
        with pytest.raises(CallRefused, match="not today"):
            await one.call("refuse")
        assert await one.call("again") == {"call": "again"}


async def test_what_is_too_long_is_refused_and_the_channel_goes_on() -> None:
    async def long(call: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"long": "x" * call_channel.MOST_LINE_BYTES} if call == "long" else {}

    async with channels(right=long) as (one, _):
        with pytest.raises(CallRefused, match="too long"):
            await one.call("this", of="x" * call_channel.MOST_LINE_BYTES)
        with pytest.raises(CallRefused, match="too long"):
            await one.call("long")
        assert await one.call("again") == {}


async def test_who_asks_is_answered_where_there_is_a_bug() -> None:
    async def bug(_: str, __: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ValueError("one too many")

    async with channels(right=bug) as (one, _):
        with pytest.raises(CallRefused, match="one too many"):
            await one.call("anything")


async def test_who_waits_is_told_that_the_other_side_is_gone() -> None:
    async def never(_: str, __: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with channels(right=never) as (one, two):
        waiting = asyncio.create_task(one.call("anything"))
        await asyncio.sleep(0)
        two.close()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await one.call("anything")


async def test_what_is_no_call_of_ours_ends_the_channel() -> None:
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=here)
    running = asyncio.create_task(CallChannel(reader, writer, echo).run())
    with there:
        there.sendall(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            await running
