"""Containers of an image that is prepared, against a bare ``docker run`` where it is there already.

*Docker run* is that of the docker command line on an engine whose Docker has the image, and has run
it before. No VM is prepared, so the floor of a restore (see ``bench.floor``) is taken off what a
container takes from the request until it runs. A snapshot's *own* bytes are the pages and the disk
blocks in which it differs from the version that it lies on; it is stored compressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from demo.image import NAME, write_hello_image
from tests.support.registry import Image, push, registry

from bench.engine_images import docker
from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place
from bench.progress import Progress
from warmboot.client.engines import Engine
from warmboot.client.results import RuntimeSnapshot
from warmboot.host.snapshots.snapshot_manifest import load_manifest

ROUNDS = 7


async def measure(progress: Progress) -> dict[str, float]:
    """``depth.…``"""
    image, samples = await build_image(progress), Samples()
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as folder:
        archive = Path(folder) / "hello.tar"
        write_hello_image(archive)
        async with registry(Path(folder)) as port, place(progress, image, pool="0") as at:
            await at.prepare()
            await push(Image.of(archive.read_bytes()), port, "bench/hello", "1")
            bench = _Bench(progress, samples, at, f"localhost:{port}/bench/hello:1")
            async with bench.prepared() as snapshot, bench.engine(archive) as engine:
                await bench.runs(snapshot, engine)
                await bench.stored(snapshot)
    return _figures(samples)


class _Bench:
    def __init__(self, progress: Progress, samples: Samples, place: Place, image: str) -> None:
        self._progress = progress
        self._samples = samples
        self._place = place
        self._client = place.client
        self._image = image

    @contextlib.asynccontextmanager
    async def prepared(self) -> AsyncIterator[RuntimeSnapshot]:
        self._progress.tell("preparing an image")
        began = time.perf_counter()
        snapshot_id = await self._client.snapshots.prepare_image(self._image)
        try:
            await self._place.until_ready(snapshot_id)
            self._samples.add("depth.prepare_s", time.perf_counter() - began)
            yield await self._client.snapshots.get(snapshot_id)
        finally:
            await self._client.snapshots.delete(snapshot_id)

    @contextlib.asynccontextmanager
    async def engine(self, archive: Path) -> AsyncIterator[Engine]:
        """One whose Docker has the image, and has run it."""
        async with self._client.engines.running(name=_name(), owner_uid=0) as engine:
            await docker(engine, "load", "-i", str(archive))
            await self._docker_run_s(engine)
            yield engine

    async def runs(self, snapshot: RuntimeSnapshot, engine: Engine) -> None:
        """A container from the snapshot, and one in the engine, in turns."""
        self._progress.tell("everything is touched once")
        await self._run_s(snapshot)
        for _ in self._progress.rounds("runs", ROUNDS):
            floor_s = await self._place.floor()
            self._samples.add("depth.floor_s", floor_s)
            run_s = await self._run_s(snapshot)
            self._samples.add("depth.image_s", run_s)
            self._samples.add("depth.image_off_floor_s", run_s - floor_s)
            self._samples.add("depth.docker_run_s", await self._docker_run_s(engine))

    async def stored(self, snapshot: RuntimeSnapshot) -> None:
        self._progress.tell("compressing it")
        folder = Path(snapshot.snapshot_path)
        own = load_manifest(folder).plain.size_bytes
        own += sum(path.stat().st_blocks * 512 for path in folder.glob("disk-*.qcow2"))
        await self._client.snapshots.compress(snapshot.id)
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while not (now := await self._client.snapshots.get(snapshot.id)).metadata.get("compressed"):
            if time.monotonic() > deadline:
                raise Failed("the snapshot was not compressed")
            await asyncio.sleep(0.1)  # nobody is told
        assert now.stored_bytes is not None
        self._samples.add("depth.stored_mib", now.stored_bytes / (1 << 20))
        self._samples.add("depth.own_mib", own / (1 << 20))

    async def _run_s(self, snapshot: RuntimeSnapshot) -> float:
        """Asked for a container → it runs."""
        await self._place.at_rest()
        began = time.perf_counter()
        name = await self._client.containers.create(image=self._image, name=_name())
        try:
            container = await self._client.containers.wait(
                name, until="running", timeout_s=BOOT_TIMEOUT_S
            )
            took = time.perf_counter() - began
            if container.raw["runtime_snapshot_id"] != snapshot.id:
                raise Failed(f"a container is {container.state}, not of the image's snapshot")
            return took
        finally:
            await self._client.containers.delete(name, force=True)

    async def _docker_run_s(self, engine: Engine) -> float:
        name = _name()
        began = time.perf_counter()
        await docker(engine, "run", "-d", "--name", name, NAME)
        took = time.perf_counter() - began
        await docker(engine, "rm", "-f", name)
        return took


def _name() -> str:
    return f"bench-{uuid4().hex[:8]}"


_RATIOS = {
    "depth.image_over_docker_run": ("depth.image_off_floor_s", "depth.docker_run_s"),
    "depth.stored_over_own": ("depth.stored_mib", "depth.own_mib"),
}
_OTHERS = ("depth.prepare_s", "depth.floor_s", "depth.image_s")


def _figures(samples: Samples) -> dict[str, float]:
    return samples.figures(_RATIOS) | {name: samples.median(name) for name in _OTHERS}
