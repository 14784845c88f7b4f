"""Calls between two processes of ours, both ways over one stream: a line of JSON each.

    {"id": 7, "call": "serve", "with": {…}} ──▶
                ◀── {"answer": 7, "result": {…}}      or {"answer": 7, "error": "in words"}

Either side may call at any time; answers come in any order. A line that is too long for the other
side, which would hang up, is not sent: its call is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from warmboot.system.concurrency import end

log = logging.getLogger(__name__)

MOST_LINE_BYTES = 1 << 20
_MOST_WORDS = 1000

Serve = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""What the other side asks for: its name, and with what."""


class CallRefused(Exception):
    """What the other side said instead of a result; raised by a ``Serve``, it is said so."""


class ChannelClosed(ConnectionError):
    """The other side is gone."""


async def nothing_served(call: str, _: Mapping[str, Any]) -> Mapping[str, Any]:
    raise CallRefused(f"there is no {call} here")


class CallChannel:
    """``run`` until the other side is gone; ``call`` meanwhile."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        serve: Serve = nothing_served,
    ) -> None:
        self._reader, self._writer, self._serve = reader, writer, serve
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(self, name: str, /, **given: Any) -> Mapping[str, Any]:
        """``CallRefused``, ``ChannelClosed``."""
        if self._closed:
            raise ChannelClosed("the other side is gone")
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        line = _line({"id": number, "call": name, "with": given})
        if len(line) > MOST_LINE_BYTES:
            raise CallRefused(f"{name} is too long: {len(line)} bytes")
        self._waiting[number] = answer
        try:
            await self._say(line)
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def run(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (ConnectionError, ValueError):  # ValueError: no JSON, or too long: none of ours
            pass
        finally:
            self._closed = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ChannelClosed("the other side is gone"))
            await end(*self._serving)
            self._writer.close()

    def close(self) -> None:
        self._closed = True
        self._writer.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "call" in message:
            task = asyncio.create_task(self._answer(message))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            return
        waiting = self._waiting.get(message["answer"])
        if waiting is None or waiting.done():
            return
        if "error" in message:
            waiting.set_exception(CallRefused(message["error"]))
        else:
            waiting.set_result(message["result"])

    async def _answer(self, asked: Mapping[str, Any]) -> None:
        answer: dict[str, Any] = {"answer": asked["id"]}
        try:
            answer["result"] = await self._serve(asked["call"], asked["with"])
        except CallRefused as refused:
            answer["error"] = str(refused)
        except Exception as error:  # a bug, too, is an answer: who asked would wait for one
            log.exception("a call met a bug")
            answer["error"] = f"something unexpected went wrong: {error!r}"[:_MOST_WORDS]
        if len(line := _line(answer)) > MOST_LINE_BYTES:
            line = _line({"answer": asked["id"], "error": "the answer is too long"})
        try:
            await self._say(line)
        except ConnectionError:  # nobody is there to be told
            return

    async def _say(self, line: bytes) -> None:
        self._writer.write(line)
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise ChannelClosed(str(error)) from error


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
