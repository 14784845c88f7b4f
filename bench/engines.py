"""Engines: how soon their Docker answers, and what the way through their sockets costs.

*Direct* is the way without the front: from inside the VM's network namespace to the agent, with the
guest's token, over the same Docker API. *In the guest* is the docker command line in a container
that has the guest's own ``docker.sock``. All is done in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import tarfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from demo.image import NAME, write_hello_image

from bench.engine_images import add_file, docker, timed, write_programs
from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place
from bench.progress import Progress
from warmboot.client.engines import Engine
from warmboot.host.guest.guest_link import AGENT_PORT
from warmboot.host.network import Slot
from warmboot.system.in_namespace import connect

READY_ROUNDS = 7
REQUEST_ROUNDS, REQUESTS = 9, 20
STREAM_ROUNDS, STREAM_MIB = 3, 200
STREAM_LIMIT_S = 60.0
"""After so long no other round is begun: one of both ways takes a minute and more where the CPU is
emulated."""
RUN_ROUNDS = 3
BIG, CLIENT = "warmboot-bench/big:1", "warmboot-bench/client:1"
_CHUNK_BYTES = 256 << 10
_PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


async def measure(progress: Progress) -> dict[str, float]:
    """``engine.…``"""
    image, samples = await build_image(progress), Samples()
    async with place(progress, image, pool="0") as at:
        bench = _Bench(progress, samples, at)
        await at.prepare()
        await bench.ready("engine.ready_s", "engine.ready_floor_s")
        progress.keep(samples.figures(_RATIOS))
        async with bench.engine() as engine:
            for part in (bench.requests, bench.runs, bench.streams):
                await part(engine)
                progress.keep(samples.figures(_RATIOS))
    async with place(progress, image, pool="1") as at:
        bench = _Bench(progress, samples, at)
        await at.prepare()
        await bench.ready("engine.pooled_s", "engine.pooled_floor_s")
    return samples.figures(_RATIOS)


@dataclass(frozen=True, slots=True)
class _Way:
    """To one engine's Docker: its socket or, with a ``namespace``, the agent in its VM."""

    socket: str
    token: str = ""
    namespace: Path | None = None
    ip: str = ""

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[HTTPConnection]:
        """One that has served a request, so that what only the first one needs is over."""
        if self.namespace is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.socket)
        else:
            sock = await connect(self.namespace, self.ip, AGENT_PORT, BOOT_TIMEOUT_S)
        sock.settimeout(BOOT_TIMEOUT_S)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = HTTPConnection("docker")
        http.sock = sock
        with contextlib.closing(http):
            authorized = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            await asyncio.to_thread(_read, http, "/_ping", authorized)
            yield http


class _Bench:
    def __init__(self, progress: Progress, samples: Samples, place: Place) -> None:
        self._progress = progress
        self._samples = samples
        self._place = place
        self._engines = place.client.engines
        self._count = 0

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """One whose Docker answers, and is handed over."""
        self._count += 1
        engine_id = await self._engines.create(name=f"bench-{self._count}", owner_uid=0)
        try:
            engine = await self._engines.wait(engine_id, timeout_s=BOOT_TIMEOUT_S)
            if (engine.state, engine.boot_method) != ("running", "warm"):
                raise Failed(f"an engine is {engine.state}, {engine.fallback_details}")
            yield engine
        finally:
            await self._engines.delete(engine_id, force=True)

    async def ready(self, name: str, floor: str) -> None:
        """The floor, and an engine from the request to the answer of its ``_ping``."""
        self._progress.tell("everything is touched once")
        await self._ready_s()
        for _ in self._progress.rounds(name.removesuffix("_s"), READY_ROUNDS):
            self._samples.add(floor, await self._place.floor())
            self._samples.add(name, await self._ready_s())

    async def _ready_s(self) -> float:
        """The front is told before the request is answered: who connects at once is served."""
        await self._place.at_rest()
        self._count += 1
        name = f"bench-{self._count}"
        began = time.perf_counter()
        engine_id = await self._engines.create(name=name, owner_uid=0)
        engine = await self._engines.get(engine_id)
        try:
            await asyncio.to_thread(_ping, engine.socket)
            took = time.perf_counter() - began
            engine = await self._engines.wait(engine_id, timeout_s=BOOT_TIMEOUT_S)
            if engine.boot_method != "warm":
                raise Failed(f"not warm but {engine.boot_method}: {engine.fallback_details}")
            return took
        finally:
            await self._engines.delete(engine_id, force=True)

    async def requests(self, engine: Engine) -> None:
        """A small one on a connection that is there, some of them a round."""
        ways = {
            "engine.request_s": _Way(engine.socket),
            "engine.request_direct_s": self._direct(engine),
        }
        async with contextlib.AsyncExitStack() as stack:
            opened = {
                name: await stack.enter_async_context(way.connection())
                for name, way in ways.items()
            }
            for _ in self._progress.rounds("requests", REQUEST_ROUNDS):
                for name, http in opened.items():
                    began = time.perf_counter()
                    for _ in range(REQUESTS):
                        await asyncio.to_thread(_read, http, "/containers/json", {})
                    self._samples.add(name, (time.perf_counter() - began) / REQUESTS)

    async def streams(self, engine: Engine) -> None:
        """``docker save`` of an image of 200 MB."""
        self._progress.tell(f"an image of {STREAM_MIB} MiB")
        archive = self._place.manager.storage / "big.tar"
        await asyncio.to_thread(_write_big, archive)
        try:
            await docker(engine, "import", str(archive), BIG)
        finally:
            archive.unlink()
        ways = {
            "engine.stream_s": _Way(engine.socket),
            "engine.stream_direct_s": self._direct(engine),
        }
        self._progress.tell("the image's files come into the guest's cache")
        await self._stream_s(self._direct(engine))
        began_s = time.monotonic()
        for _ in self._progress.rounds("streams", STREAM_ROUNDS):
            for name, way in ways.items():
                self._samples.add(name, await self._stream_s(way))
            if time.monotonic() - began_s > STREAM_LIMIT_S:
                break
        await docker(engine, "rmi", BIG)

    async def _stream_s(self, way: _Way) -> float:
        async with way.connection() as http:
            began = time.perf_counter()
            size = await asyncio.to_thread(_read, http, f"/images/{BIG}/get", {})
            took = time.perf_counter() - began
        if size < STREAM_MIB << 20:
            raise Failed(f"the stream had {size} bytes")
        return took

    async def runs(self, engine: Engine) -> None:
        """``docker run --rm IMAGE true``."""
        self._progress.tell("an image with docker's command line")
        archive = self._place.manager.storage / "images.tar"
        write_hello_image(archive)
        await docker(engine, "load", "-i", str(archive))
        await asyncio.to_thread(write_programs, archive, "docker", "busybox")
        await docker(engine, "import", str(archive), CLIENT)
        archive.unlink()
        once = ("run", "--rm", NAME, "/bin/busybox", "true")
        inside = ("exec", "client", "/bin/busybox", "sh", "-c", timed("/bin/docker", *once))
        await docker(
            *(
                engine,
                "run",
                "-d",
                "--name",
                "client",
                "-v",
                "/var/run/docker.sock:/var/run/docker.sock",
            ),
            *(CLIENT, "/bin/busybox", "sleep", "100000"),
        )
        for number in self._progress.rounds("runs", RUN_ROUNDS + 1):
            began = time.perf_counter()
            await docker(engine, *once)
            took = time.perf_counter() - began
            before, after = (await docker(engine, *inside)).split()
            if number > 0:
                self._samples.add("engine.run_s", took)
                self._samples.add("engine.run_guest_s", float(after) - float(before))
        await docker(engine, "rm", "-f", "client")

    def _direct(self, engine: Engine) -> _Way:
        """What only the manager and its front know: the way past the front."""
        database = sqlite3.connect(
            f"file:{self._place.manager.storage}/warmboot.db?mode=ro", uri=True
        )
        with contextlib.closing(database):
            (row,) = database.execute(
                "select token, slot from vms where id = ?", (engine.raw["vm_id"],)
            )
        slot = Slot.from_dict(json.loads(row[1]))
        return _Way("", row[0], slot.namespace, slot.guest_ip)


def _ping(path: str) -> None:
    """The first byte of an answer, from the engine's socket, which may not be there yet."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(BOOT_TIMEOUT_S)
        while True:
            try:
                sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)  # its socket is not there yet
        sock.sendall(_PING)
        if not (said := sock.recv(4096)).startswith(b"HTTP/1.1 200"):
            raise Failed(f"the engine answered {said!r}")


def _read(http: HTTPConnection, target: str, headers: dict[str, str]) -> int:
    """The size of the answer's body."""
    http.request("GET", target, headers=headers)
    size = 0
    with http.getresponse() as answer:
        while part := answer.read(_CHUNK_BYTES):
            size += len(part)
        if answer.status != 200:
            raise Failed(f"{target} was answered with {answer.status}")
    return size


def _write_big(path: Path) -> None:
    """A file system of random bytes, in files of 10 MiB."""
    with tarfile.open(path, "w") as archive:
        for number in range(STREAM_MIB // 10):
            add_file(archive, f"part-{number}", os.urandom(10 << 20))


_RATIOS = {
    "engine.ready_over_floor": ("engine.ready_s", "engine.ready_floor_s"),
    "engine.pooled_over_floor": ("engine.pooled_s", "engine.pooled_floor_s"),
    "engine.request_over_direct": ("engine.request_s", "engine.request_direct_s"),
    "engine.stream_over_direct": ("engine.stream_s", "engine.stream_direct_s"),
    "engine.run_over_guest": ("engine.run_s", "engine.run_guest_s"),
}
