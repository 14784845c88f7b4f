"""Workers: what a pause and a resume take over the API, and by what is below warmboot alone.

Interleaved, so that whatever the machine does meanwhile falls on both: a worker on the runtime of
ours, and a container with the same command on the engine's usual one, or on runc without an engine.

    worker     ── pause ─────────────────▶ ── resume ──────────────▶
    container           ── bare dump ────▶             ── bare start ──▶

The engine's bare start is prepared as warmboot prepares it (else it fails every time, see
``docs/``), and only the engine's call is timed. Each of the four begins with a disk that has
nothing left to write: a dump leaves hundreds of megabytes, and whatever comes next would pay for
them. Which of the two is first changes from round to round.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from demo.manager import manager, state_root
from testbed.private_dockerd import private_dockerd, tcp_established

from bench.bare_runc import bare_container
from bench.kept_rounds import COUNT_OVER_HTTP, COUNTED_FILE, CountedFile, Counting, rounds_kept
from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.criu.containerd import forget_restored, scratch_folders
from warmboot.criu.continuity import memory_bytes
from warmboot.criu.restore import salt
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.docker.content_store import until_forgotten
from warmboot.docker.engine import DockerEngine
from warmboot.docker.tiny_image import busybox_image, static_busybox
from warmboot.model.worker import RUNTIME, WorkerSpec

IMAGE = "warmboot-bench/busybox:1"
ROUNDS = 9
ROUNDS_1G = 5
KEPT_ROUNDS = 200
BETWEEN_S = 0.2
"""Between a resume and the next pause: long enough for the process to have run."""

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"


def hold(size_bytes: int) -> str:
    """A script that has so much memory, none of it alike."""
    return (
        f"( head -c {size_bytes} /dev/urandom; while sleep 1; do :; done ) | "
        f"dd of=/dev/null bs={size_bytes} iflag=fullblock"
    )


class Bare(Protocol):
    """A container without warmboot; its ``dump`` and ``restore`` are timed, the rest is not."""

    async def pid(self) -> int: ...

    async def ready(self) -> None: ...

    async def dump(self) -> None: ...

    async def dumped(self) -> None: ...

    async def restore(self) -> None: ...

    async def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Setting:
    client: Client
    engine: DockerEngine
    criu: Path
    busybox: Path
    folder: Path


async def measure(progress: Progress) -> dict[str, float]:
    """All figures of workers, on an engine and a manager of their own. Needs root."""
    figures: dict[str, float] = {}
    progress.tell("starting an engine and a manager")
    async with _setting() as here:
        for key, size_bytes, size in (("", 0, "a small worker"), ("_256m", 256 << 20, "256 MiB")):
            script = hold(size_bytes) if size_bytes else COUNT
            async with _on_engine(here.engine, script) as bare:
                rounds = progress.rounds(f"pause and resume, {size}", ROUNDS + 1)
                samples = await _interleaved(here, bare, script, size_bytes, rounds)
            figures |= _figures(samples, key, "docker")
        script = hold(1 << 30)
        async with bare_container(here.folder, here.busybox, here.criu, script) as bare:
            rounds = progress.rounds("pause and resume, 1 GiB", ROUNDS_1G + 1)
            samples = await _interleaved(here, bare, script, 1 << 30, rounds)
        figures |= _figures(samples, "_1g", "runc")
        rounds = progress.rounds("a connection and a file are kept", KEPT_ROUNDS)
        figures |= {"worker.rounds_kept": await _kept(here, rounds), "worker.rounds": KEPT_ROUNDS}
    return figures


def _figures(samples: Samples, key: str, over: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for what in ("pause", "resume"):
        figures[f"worker.{what}{key}_over_{over}"] = samples.ratio(what, f"bare {what}")
        figures[f"worker.{what}{key}_s"] = samples.median(what)
        figures[f"worker.{what}{key}_{over}_s"] = samples.median(f"bare {what}")
        figures[f"worker.{what}{key}_runs"] = samples.runs(what)
    return figures


@contextlib.asynccontextmanager
async def _setting() -> AsyncIterator[Setting]:
    busybox = static_busybox()
    if busybox is None:
        raise Failed("a static busybox is needed: apt-get install busybox-static")
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as storage, tcp_established():
        runtime = Path(storage) / "warmboot-runtime"
        await install_runtime(runtime)
        async with (
            private_dockerd(
                state_root() / "criu", runtimes={RUNTIME: {"path": str(runtime)}}
            ) as dockerd,
            DockerEngine(dockerd.socket) as engine,
        ):
            await engine.load_image(busybox_image(IMAGE, busybox, ["sh"]))
            settings = {
                "MANAGER_HYPERVISOR": "simulated",
                "MANAGER_DOCKER_HOST": f"unix://{dockerd.socket}",
                "MANAGER_CRIU_WRAPPER": str(dockerd.criu_wrapper),
            }
            async with (
                manager(
                    Path(storage), prefix="wbw", subnet="198.19.224.0/20", settings=settings
                ) as running,
                Client(running.url) as client,
            ):
                folder = Path(storage) / "bare"
                yield Setting(client, engine, dockerd.criu_wrapper, busybox, folder)


@contextlib.asynccontextmanager
async def _worker(client: Client, name: str, script: str) -> AsyncIterator[str]:
    """A running worker's id; removed at the end."""
    worker_id = await client.workers.create(image=IMAGE, name=name, command=["sh", "-c", script])
    try:
        worker = await client.workers.wait(worker_id, "settled", READY_TIMEOUT_S)
        if worker.state != "running":
            raise Failed(f"the worker {name} does not run: {worker.error}")
        yield worker_id
    finally:
        await client.workers.delete(worker_id, force=True)


async def _interleaved(
    here: Setting, bare: Bare, script: str, size_bytes: int, rounds: Iterator[int]
) -> Samples:
    """The first round warms up and does not count."""
    samples, client = Samples(), here.client
    async with _worker(client, "timed", script) as worker_id:
        docker_id = (await client.workers.get(worker_id)).docker_id or ""
        await _touched((await here.engine.inspect(docker_id)).pid, size_bytes)
        await _touched(await bare.pid(), size_bytes)
        for number in rounds:
            name = f"a{number}"
            await bare.ready()
            took = await _both(
                number, "pause", partial(client.workers.pause, worker_id, name), bare.dump
            )
            await bare.dumped()
            took |= await _both(
                number, "resume", partial(client.workers.resume, worker_id, name), bare.restore
            )
            await bare.forget()
            await client.workers.delete_checkpoint(worker_id, name)
            await asyncio.sleep(BETWEEN_S)
            for what, value in took.items():
                if number > 0:
                    samples.add(what, value)
    return samples


@dataclass(slots=True)
class _OnEngine:
    """On the engine's usual runtime, dumped and restored by the engine's own calls."""

    engine: DockerEngine
    docker_id: str
    name: str = "bare"
    salted: str = ""

    async def pid(self) -> int:
        return (await self.engine.inspect(self.docker_id)).pid

    async def ready(self) -> None:
        """Without this the dump may fail; so neither of the two has to wait for it."""
        facts = await self.engine.remembered_facts()
        await until_forgotten(self.docker_id, await self.pid(), facts.content_stores())

    async def dump(self) -> None:
        await self.engine.dump(self.docker_id, self.name, leave_running=False)

    async def dumped(self) -> None:
        await self.engine.wait_stopped(self.docker_id, STOP_TIMEOUT_S)
        facts = await self.engine.remembered_facts()
        folder = facts.checkpoint_folder(self.docker_id, self.name)
        self.salted = await asyncio.to_thread(salt, folder)

    async def restore(self) -> None:
        await self.engine.start_from(self.docker_id, self.name)

    async def forget(self) -> None:
        """With the copy of the memory that its containerd has left in /tmp."""
        await asyncio.to_thread(forget_restored, scratch_folders(self.engine.socket), [self.salted])
        await self.engine.delete_checkpoint(self.docker_id, self.name)


@contextlib.asynccontextmanager
async def _on_engine(engine: DockerEngine, script: str) -> AsyncIterator[Bare]:
    spec = WorkerSpec("timed-bare", IMAGE, command=("sh", "-c", script))
    container = await engine.create_worker(spec, extra_environment={})
    try:
        await engine.start(container)
        yield _OnEngine(engine, container)
    finally:
        await engine.remove(container)


_Call = Callable[[], Awaitable[object]]


async def _both(number: int, what: str, ours: _Call, bare: _Call) -> dict[str, float]:
    """What each took. In every other round the bare one is first: a disk may be slower then."""
    calls = [(what, ours), (f"bare {what}", bare)]
    took = {}
    for name, call in reversed(calls) if number % 2 else calls:
        await asyncio.to_thread(os.sync)
        began = time.perf_counter()
        await call()
        took[name] = time.perf_counter() - began
    return took


async def _touched(pid: int, size_bytes: int) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            if await asyncio.to_thread(memory_bytes, pid) >= size_bytes:
                return
            await asyncio.sleep(0.1)  # nothing tells when a process has touched its memory


async def _kept(here: Setting, rounds: Iterator[int]) -> int:
    counting = Counting()
    async with (
        counting.serving() as port,
        _worker(here.client, "counts", COUNT_OVER_HTTP.format(port=port)) as worker_id,
    ):
        worker = await here.client.workers.get(worker_id)
        layer = (await here.engine.inspect(worker.docker_id or "")).upper_folder
        if layer is None:
            raise Failed("the engine's storage driver has no folder of what a worker has written")
        file = CountedFile(layer / COUNTED_FILE)
        return await rounds_kept(here.client, worker_id, counting, file, rounds)
