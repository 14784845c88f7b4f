"""Workers: what a pause and a resume take over the API, and by the bare engine calls.

Interleaved, so that whatever the machine does meanwhile falls on both: a worker on the runtime of
ours, and a container of the same image and command on the engine's usual one.

    worker     ── pause ─────────────────▶ ── resume ──────────────▶
    container           ── bare dump ────▶             ── bare start ──▶

The bare start is prepared as warmboot prepares it (else it fails every time, see ``docs/``), and
only the engine's call is timed. Each of the four begins with a disk that has nothing left to write:
a dump leaves hundreds of megabytes, and whatever comes next would pay for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

from aiohttp import web
from demo.manager import manager, state_root
from testbed.private_dockerd import private_dockerd, tcp_established

from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.criu.continuity import memory_bytes
from warmboot.criu.restore import salt
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.docker.content_store import until_forgotten
from warmboot.docker.engine import DockerEngine
from warmboot.docker.tiny_image import busybox_image, static_busybox
from warmboot.model.worker import RUNTIME, WorkerSpec

IMAGE = "warmboot-bench/busybox:1"
ROUNDS = 9
KEPT_ROUNDS = 50
TOUCHED_BYTES = 256 << 20
BETWEEN_S = 0.2
"""Between a resume and the next pause: long enough for the process to have run."""

READY_TIMEOUT_S = 60.0
ROUND_TIMEOUT_S = 30.0

COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
HOLD_256M = (
    f"( head -c {TOUCHED_BYTES} /dev/urandom; while sleep 1; do :; done ) | "
    f"dd of=/dev/null bs={TOUCHED_BYTES} iflag=fullblock"
)
COUNT_OVER_HTTP = (
    "( printf 'POST /count HTTP/1.1\\r\\nHost: bench\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'; "
    "i=0; while true; do i=$((i+1)); printf '%x\\r\\n%s\\n\\r\\n' $((${{#i}}+1)) $i; "
    "sleep 0.05; done ) | nc 127.0.0.1 {port}"
)


async def measure(progress: Progress) -> dict[str, float]:
    """All figures of workers, on an engine and a manager of their own. Needs root."""
    figures: dict[str, float] = {}
    progress.tell("starting an engine and a manager")
    async with _setting() as (client, engine):
        for key, script in (("", COUNT), ("_256m", HOLD_256M)):
            samples = await _interleaved(client, engine, script, progress)
            for what in ("pause", "resume"):
                figures[f"worker.{what}{key}_over_docker"] = samples.ratio(what, f"bare {what}")
                figures[f"worker.{what}{key}_s"] = samples.median(what)
                figures[f"worker.{what}{key}_docker_s"] = samples.median(f"bare {what}")
                figures[f"worker.{what}{key}_runs"] = samples.runs(what)
        kept = await _rounds_kept(client, progress)
        figures |= {"worker.rounds_kept": kept, "worker.rounds": KEPT_ROUNDS}
    return figures


@contextlib.asynccontextmanager
async def _setting() -> AsyncIterator[tuple[Client, DockerEngine]]:
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
                yield client, engine


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
    client: Client, engine: DockerEngine, script: str, progress: Progress
) -> Samples:
    samples = Samples()
    async with (
        _worker(client, "timed", script) as worker_id,
        _container(engine, "timed-bare", script) as bare,
    ):
        docker_id = (await client.workers.get(worker_id)).docker_id or ""
        if script == HOLD_256M:
            await _touched(engine, docker_id)
            await _touched(engine, bare)
        facts = await engine.facts()
        size = "256 MiB" if script == HOLD_256M else "a small worker"
        for number in progress.rounds(f"pause and resume, {size}", ROUNDS + 1):
            name = f"a{number}"
            await _ready(engine, bare)
            took = {"pause": await _timed(client.workers.pause(worker_id, name))}
            await _written()
            took["bare pause"] = await _timed(engine.dump(bare, name, leave_running=False))
            await engine.wait_stopped(bare, ROUND_TIMEOUT_S)
            await asyncio.to_thread(salt, facts.checkpoint_folder(bare, name))
            await _written()
            took["resume"] = await _timed(client.workers.resume(worker_id, name))
            await _written()
            took["bare resume"] = await _timed(engine.start_from(bare, name))
            await engine.delete_checkpoint(bare, name)
            await client.workers.delete_checkpoint(worker_id, name)
            await asyncio.sleep(BETWEEN_S)
            for what, value in took.items():
                if number > 0:  # the first round warms up and does not count
                    samples.add(what, value)
    return samples


@contextlib.asynccontextmanager
async def _container(engine: DockerEngine, name: str, script: str) -> AsyncIterator[str]:
    """The same on the engine's usual runtime, and nobody's worker."""
    spec = WorkerSpec(name, IMAGE, command=("sh", "-c", script))
    container = await engine.create_worker(spec, extra_environment={})
    try:
        await engine.start(container)
        yield container
    finally:
        await engine.remove(container)


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began


async def _ready(engine: DockerEngine, docker_id: str) -> None:
    """Without this the bare dump may fail; so neither of the two has to wait for it."""
    pid, facts = (await engine.inspect(docker_id)).pid, await engine.remembered_facts()
    await until_forgotten(docker_id, pid, facts.content_stores())
    await _written()


async def _written() -> None:
    """Of two steps neither shall wait for what the one before has left to write."""
    await asyncio.to_thread(os.sync)


async def _touched(engine: DockerEngine, docker_id: str) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            pid = (await engine.inspect(docker_id)).pid
            if await asyncio.to_thread(memory_bytes, pid) >= TOUCHED_BYTES:
                return
            await asyncio.sleep(0.1)  # nothing tells when a process has touched its memory


class _Counting:
    """An HTTP server that hears a worker count, on as many connections as that needs."""

    def __init__(self) -> None:
        self.requests = 0
        self.last = 0
        self.lost = 0
        self._heard = asyncio.Condition()

    async def hear(self, request: web.Request) -> web.Response:
        self.requests += 1
        with contextlib.suppress(ConnectionError):  # it is removed in the middle, at the end
            async for line in request.content:
                number = int(line)
                async with self._heard:
                    self.lost += number != self.last + 1
                    self.last = number
                    self._heard.notify_all()
        return web.Response()

    async def beyond(self, number: int) -> bool:
        """Whether a higher one was heard in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_TIMEOUT_S), self._heard:
                await self._heard.wait_for(lambda: self.last > number)
                return True
        return False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_post("/count", self.hear)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()


async def _rounds_kept(client: Client, progress: Progress) -> int:
    """Rounds after which the count went on, without loss and on the same HTTP connection."""
    counting, kept = _Counting(), 0
    async with (
        counting.serving() as port,
        _worker(client, "counts", COUNT_OVER_HTTP.format(port=port)) as worker_id,
    ):
        await counting.beyond(2)
        for _ in progress.rounds("a connection is kept", KEPT_ROUNDS):
            lost, requests = counting.lost, counting.requests
            await client.workers.pause(worker_id)
            before = counting.last
            await client.workers.resume(worker_id)
            went_on = await counting.beyond(before + 1)
            kept += went_on and (counting.lost, counting.requests) == (lost, requests)
    return kept
