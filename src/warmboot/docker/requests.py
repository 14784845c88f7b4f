"""How a Docker engine is asked: a request, its limits, and its answer or an error of ours.

Connections come in two pools, so that a call never waits behind what lasts: *calls* are asked and
answered, within a time; *streams* (a pull, a log, a wait, an exec) take a connection each for as
long as they go on. aiodocker does the talking; what it has no method for is asked for by path.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import cached_property
from typing import Any

import aiodocker
import aiohttp

from warmboot.docker.errors import Fault, any_fault, refusal, translated
from warmboot.docker.place import Place
from warmboot.model.errors import ContainerError, WarmbootError

MOST_CALLS = 64
UNLIMITED = 0
HOST = "http://docker"
"""It is in every request, and leads nowhere: the connector knows the way."""


def nobody_asks() -> None:
    """Nobody wants to know when the engine does not answer."""


class _Pool:
    """Connections of one kind, and the library's client over them."""

    def __init__(self, place: Place, limit: int) -> None:
        self.session = aiohttp.ClientSession(
            connector=place.connect(limit), headers=dict(place.headers)
        )
        self.docker = aiodocker.Docker(
            HOST,
            connector=self.session.connector,
            session=self.session,
            # For what the library asks by itself: the version, before the first request.
            timeout=aiohttp.ClientTimeout(total=place.answer_timeout_s),
            api_version=place.api_version,
        )

    async def close(self) -> None:
        await self.docker.close()
        await self.session.close()


class Requests:
    """``close`` when done. ``on_lost`` is called when the engine does not answer."""

    def __init__(self, place: Place, on_lost: Callable[[], None] = nobody_asks) -> None:
        self.place = place
        self._on_lost = on_lost
        self._closed = False
        self._unread = set[aiohttp.ClientResponse]()

    @cached_property
    def _calls(self) -> _Pool:
        return self._open(MOST_CALLS)

    @cached_property
    def _streams(self) -> _Pool:
        return self._open(UNLIMITED)

    def _open(self, limit: int) -> _Pool:
        if self._closed:  # nobody would close these
            raise self.place.unavailable(f"the connection to {self.place.name} was closed")
        return _Pool(self.place, limit)

    @property
    def streams(self) -> aiodocker.Docker:
        """The library's client, for what takes over its connection."""
        return self._streams.docker

    async def close(self) -> None:
        """Whoever still reads an answer gets an error: the library would let him wait for ever."""
        self._closed = True
        for response in self._unread:
            response.content.set_exception(aiohttp.ClientConnectionError("it was closed"))
        for name in ("_calls", "_streams"):
            if (pool := self.__dict__.pop(name, None)) is not None:
                await pool.close()

    async def do(self, doing: str, request: str, **options: Any) -> None:
        async with self.answer(doing, request, **options) as response:
            await response.read()

    async def json(self, doing: str, request: str, **options: Any) -> Any:
        async with self.answer(doing, request, **options) as response:
            return await response.json()

    async def messages(
        self, doing: str, request: str, *, fault: Fault, **options: Any
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """What Docker tells of something long; that it failed it tells in a message, too."""
        async with self.answer(doing, request, fault=fault, lasts=True, **options) as response:
            async for line in response.content:
                message = json.loads(line)
                if error := message.get("error"):
                    raise refusal(self.place, doing, response.status, str(error), fault)
                yield message

    @contextlib.asynccontextmanager
    async def answer(
        self,
        doing: str,
        request: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        timeout_s: float | None = None,
        silence_s: float | None = None,
        lasts: bool = False,
        fault: Fault = any_fault,
        kind: type[WarmbootError] = ContainerError,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to ``request``, a method and a path; ``doing`` is what errors call it.

        ``timeout_s`` is for all of it, ``silence_s`` for how long nothing of it comes. What
        ``lasts`` has only the limits that it is given, any other the engine's own.
        """
        method, path = request.split(" ", 1)
        if timeout_s is None and not lasts:
            timeout_s = self.place.answer_timeout_s
        body = json.dumps(data) if isinstance(data, dict) else data
        headers = {
            "Content-Type": "application/json" if isinstance(data, dict) else "application/x-tar"
        }
        docker = (self._streams if lasts else self._calls).docker
        try:
            with translated(self.place, doing, fault, kind):
                async with (
                    docker._query(
                        path,
                        method=method,
                        params=params,
                        data=body,
                        headers=headers,
                        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_read=silence_s),
                    ) as response,
                    response,
                ):  # or an answer that is not read to its end stays open
                    self._unread.add(response)
                    try:
                        yield response
                    finally:
                        self._unread.discard(response)
        except self.place.unavailable:
            if not self._closed:
                self._on_lost()
            raise
