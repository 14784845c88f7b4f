"""Warm boots per second while a rebuild, a compression and a collection run, over an idle manager.

One client boots and removes a container after the other. A round is as many boots on an idle
manager, then as many while in the background the snapshot that the boots use is rebuilt, another
is compressed and unpacked again, both without a pause, and garbage is collected once a second. What
was begun and what of it came to its end within the rounds is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from demo.image import NAME, write_hello_image
from demo.manager import forget_older_images, image_digest, manager, state_root

from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.client.results import RuntimeSnapshot
from warmboot.model.errors import Conflict

ROUNDS = 3
BOOTS = 20
SPARE_MEMORY_MIB = 512
COLLECT_EVERY_S = 1.0
BOOT_TIMEOUT_S = 120.0
BUILD_TIMEOUT_S = 900.0


async def measure(progress: Progress) -> dict[str, float]:
    """``background.boots_over_idle``, and the medians and counts that it is made from."""
    state = state_root()
    image = state / "runtime-image"
    progress.tell("the runtime image")
    await _build_image(image)
    settings = {
        "MANAGER_AUTO_REBUILD": "false",
        "MANAGER_INTEGRITY_EVERY_H": "0",
        "MANAGER_COMPRESS_AFTER_H": "0",  # the bench does it itself
        "MANAGER_POOL_MAX_VMS": "0",  # each boot is to do all of its work
    }
    async with (
        manager(
            state / "bench-background", prefix="wbback", subnet="198.19.144.0/20", settings=settings
        ) as running,
        Client(running.url) as client,
    ):
        bench = _Bench(client)
        progress.tell("two snapshots to boot from and to compress")
        await bench.prepare(image, running.storage)
        try:
            for _ in progress.rounds(f"{BOOTS} boots idle, {BOOTS} busy", ROUNDS):
                await bench.round()
        finally:
            await bench.clean_up()
        return bench.figures()


class _Bench:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._samples = Samples()
        self._archive = ""
        self._image_id = ""
        self._spare = ""
        self._boots = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    async def prepare(self, image: Path, storage: Path) -> None:
        """The snapshot that is booted from, another one to be compressed, everything touched."""
        await forget_older_images(self._client, image_digest(image))
        registered = await self._client.images.register(
            name="bench", path=str(image), build_snapshot=False
        )
        self._image_id = registered.id
        await self._ready(self._image_id, None)
        self._spare = (await self._ready(self._image_id, SPARE_MEMORY_MIB)).id
        archive = storage / "hello.tar"
        write_hello_image(archive)
        self._archive = await self._client.archives.upload(archive)
        await self._boot()

    async def round(self) -> None:
        self._samples.add("background.idle_boots_per_s", await self._rate())
        async with self._background():
            self._samples.add("background.busy_boots_per_s", await self._rate())

    def figures(self) -> dict[str, float]:
        s = self._samples
        idle, busy = "background.idle_boots_per_s", "background.busy_boots_per_s"
        return {
            "background.boots_over_idle": s.ratio(busy, idle),
            idle: s.median(idle),
            busy: s.median(busy),
            "background.rounds": float(s.runs(busy)),
            "background.boots_per_round": float(BOOTS),
            **{
                f"background.{what}_{how}": float(self._counts[what, how])
                for what in ("rebuilds", "compressions", "collections")
                for how in ("begun", "ended")
            },
        }

    async def clean_up(self) -> None:
        for container in await self._client.containers.list(all_states=True):
            await self._client.containers.delete(container.id, force=True)

    # -- boots ---------------------------------------------------------------------------------

    async def _rate(self) -> float:
        started = time.perf_counter()
        for _ in range(BOOTS):
            await self._boot()
        return BOOTS / (time.perf_counter() - started)

    async def _boot(self) -> None:
        self._boots += 1
        name = await self._client.containers.create(
            image=NAME, name=f"bench-{self._boots}", archive=self._archive
        )
        container = await self._client.containers.wait(name, "booted", BOOT_TIMEOUT_S)
        if container.boot_method != "warm":
            raise Failed(f"a boot was not warm: {container.error or container.fallback_details}")
        await self._client.containers.delete(name, force=True)

    # -- the background ------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        """All three go on when the body begins, and until it has ended."""
        begun = asyncio.Event()
        work = [
            asyncio.create_task(self._rebuild(begun)),
            asyncio.create_task(self._compress_and_unpack()),
            asyncio.create_task(self._collect()),
        ]
        try:
            await asyncio.wait(
                {*work, asyncio.create_task(begun.wait())}, return_when=asyncio.FIRST_COMPLETED
            )
            yield
            failed = [task for task in work if task.done()]
            if failed:
                raise Failed(f"the background came to its end: {failed}")
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await self._rest()

    async def _rebuild(self, begun: asyncio.Event) -> None:
        """Again and again; ``begun`` is set when the first builder's VM boots."""
        async with self._client.events.follow() as events:
            while True:
                used = await self._ready(self._image_id, None)
                successor = await self._client.snapshots.rebuild(used.id)
                self._counts["rebuilds", "begun"] += 1
                async for event in events:
                    if event.subject_id != successor:
                        continue
                    if event.data.get("stage") == "boot":
                        begun.set()
                    if event.kind == "runtime-snapshot.failed":
                        raise Failed(f"{event.kind}: {event.data}")
                    if event.kind == "runtime-snapshot.ready":
                        break
                self._counts["rebuilds", "ended"] += 1

    async def _compress_and_unpack(self) -> None:
        async with self._client.events.follow() as events:
            while True:
                self._counts["compressions", "begun"] += 1
                await self._client.snapshots.compress(self._spare)
                await self._until(events, "runtime-snapshot.compressed")
                self._counts["compressions", "ended"] += 1
                await self._client.snapshots.unpack(self._spare)
                await self._until(events, "runtime-snapshot.unpacked")

    async def _until(self, events: AsyncIterator[object], kind: str) -> None:
        async for event in events:
            happened = getattr(event, "kind", "")
            if happened == kind:
                return
            if happened.endswith("-failed"):
                raise Failed(f"{happened}: {getattr(event, 'data', '')}")

    async def _collect(self) -> None:
        while True:
            self._counts["collections", "begun"] += 1
            await self._client.garbage.collect()
            self._counts["collections", "ended"] += 1
            await asyncio.sleep(COLLECT_EVERY_S)

    async def _rest(self) -> None:
        """Until the spare one is plain again and nothing of the background goes on."""
        for snapshot in await self._client.snapshots.list():
            if snapshot.state == "creating":
                await self._client.snapshots.delete(snapshot.id)
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            while True:
                idle = True
                try:
                    await self._client.snapshots.unpack(self._spare)
                except Conflict:
                    idle = False
                spare = await self._client.snapshots.get(self._spare)
                waiting = await self._client.snapshots.list(include_deleted=True)
                alive = await self._client.snapshots.list()
                if idle and not spare.metadata["compressed"] and len(waiting) == len(alive):
                    return
                # A conflict ends when the change before it does, and no event tells of that alone.
                await asyncio.sleep(0.2)

    async def _ready(self, image_id: str, memory_mib: int | None) -> RuntimeSnapshot:
        """A ready snapshot of that memory; ``None``: of the default shape."""
        default = (await self._client.system.info())["default_shape"]
        memory_mib = memory_mib or default["memory_mib"]
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            while True:
                known = [
                    snapshot
                    for snapshot in await self._client.snapshots.list()
                    if snapshot.shape.memory_mib == memory_mib
                ]
                ready = [snapshot for snapshot in known if snapshot.state == "ready"]
                if ready:
                    return ready[0]
                if all(snapshot.state != "creating" for snapshot in known):
                    await self._client.snapshots.create(
                        image_id, vcpus=default["vcpus"], memory_mib=memory_mib
                    )
                await asyncio.sleep(0.5)  # a build takes a minute


async def _build_image(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.images", "build", "--output", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait() != 0:
        raise Failed("the runtime image could not be built")
