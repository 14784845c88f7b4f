"""Forks of an engine: how long the source stands still, how soon a fork answers, what eight take.
And parks of it: how much memory is freed, how soon it answers who connects.

The engine's Redis holds 100 MB. *Own* pages are those that differ from the runtime snapshot: what a
freeze copies. It is compared with dd's copy of as many bytes from memory to the same disk. The
*fixed* part of a standstill is what is left of it without own pages, on the line through those of
an engine in which nothing was done, and of the loaded one. All is done in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from bench.engine_images import docker, write_programs
from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place, run
from bench.progress import Progress
from warmboot.client.engines import Engine
from warmboot.host.snapshots.snapshot_manifest import load_manifest
from warmboot.hypervisors.memory.own_pages import own_ranges_of_file, private_mappings

ROUNDS = 5
FORKS = 8
PORT = 6379
KEYS, VALUE_BYTES = 100_000, 1000
IMAGE = "warmboot-bench/redis:1"
MEMORY = Path("/dev/shm")
_GET = b"GET key:77777\r\n"
_SERVE = ("redis-server", "--protected-mode", "no", "--save", "", "--enable-debug-command", "yes")
_FILL = ("redis-cli", "debug", "populate", str(KEYS), "key", str(VALUE_BYTES))


async def measure(progress: Progress) -> dict[str, float]:
    """``fork.…``"""
    image, samples = await build_image(progress), Samples()
    async with place(progress, image, pool="0") as at:
        await at.prepare()
        bench = _Bench(progress, samples, at)
        idling = at.client.engines.running(name=_name(), owner_uid=0)
        async with idling as idle, bench.loaded() as loaded:
            await bench.rounds(idle, loaded)
            progress.keep(_figures(samples))
            await bench.eight(loaded)
            progress.keep(_figures(samples))
            await bench.parks(loaded)
    return _figures(samples)


class _Bench:
    def __init__(self, progress: Progress, samples: Samples, place: Place) -> None:
        self._progress = progress
        self._samples = samples
        self._place = place
        self._engines = place.client.engines

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[Engine]:
        """An engine with a Redis that answers on its port, and holds 100 MB."""
        self._progress.tell("an engine with a loaded Redis")
        archive = self._place.manager.storage / "redis.tar"
        async with self._engines.running(name=_name(), owner_uid=0) as engine:
            await asyncio.to_thread(write_programs, archive, "redis-server", "redis-cli")
            try:
                await docker(engine, "import", str(archive), IMAGE)
            finally:
                archive.unlink()
            published = ("-p", f"127.0.0.1::{PORT}", "--name", "redis")
            await docker(engine, "run", "-d", *published, IMAGE, *_SERVE)
            deadline = time.monotonic() + BOOT_TIMEOUT_S
            while True:
                with contextlib.suppress(Failed):
                    await docker(engine, "exec", "redis", *_FILL)
                    break
                if time.monotonic() > deadline:
                    raise Failed("Redis was not filled")
            yield await self._engines.get(engine.id)

    async def rounds(self, idle: Engine, loaded: Engine) -> None:
        self._progress.tell("everything is touched once")
        async with self._engines.snapshotted(loaded.id, "bench-seed"):
            await self._next_s("bench-seed")
            for _ in self._progress.rounds("forks", ROUNDS):
                floor, pause = await self._place.floor_and_pause()
                self._samples.add("fork.floor_s", floor)
                self._samples.add("fork.pause_s", pause)
                self._samples.add("fork.ready_s", await self._ready_s(loaded))
                self._samples.add("fork.next_s", await self._next_s("bench-seed"))
                await self._stand_still(idle, "fork.idle_standstill_s", "fork.idle_own_mib")
                own_mib = await self._stand_still(loaded, "fork.standstill_s", "fork.own_mib")
                self._samples.add("fork.copy_s", await self._copy_s(own_mib))

    async def eight(self, loaded: Engine) -> None:
        """What each has of its guest's memory for itself, after its first answer."""
        self._progress.tell(f"{FORKS} forks")
        began = time.perf_counter()
        forks = await self._engines.fork(loaded.id, FORKS)
        try:
            self._samples.add("fork.eight_s", time.perf_counter() - began)
            for fork in forks:
                await asyncio.to_thread(_answer, fork)
            for fork in forks:
                own = await asyncio.to_thread(_own_mib, fork)
                self._samples.add("fork.private_mib", own)
                self._samples.add("fork.ram_mib", float(fork.shape.memory_mib))
        finally:
            for fork in forks:
                await self._engines.delete(fork.id, force=True)

    async def parks(self, engine: Engine) -> None:
        """A connection to a parked one → its first byte; and the memory of its VMM, before it was
        parked and since."""
        for _ in self._progress.rounds("parks", ROUNDS):
            vm_id = (await self._engines.get(engine.id)).raw["vm_id"]
            had_mib = await asyncio.to_thread(_resident_mib, vm_id)
            began = time.perf_counter()
            await self._engines.park(engine.id)
            self._samples.add("park.park_s", time.perf_counter() - began)
            left_mib = await asyncio.to_thread(_resident_mib, vm_id)
            self._samples.add("park.had_mib", had_mib)
            self._samples.add("park.freed_mib", had_mib - left_mib)
            await self._place.at_rest()
            began = time.perf_counter()
            await asyncio.to_thread(_answer, engine)
            self._samples.add("park.wake_s", time.perf_counter() - began)

    async def _ready_s(self, source: Engine) -> float:
        """Asked for a fork → its Redis answers: the first of a moment."""
        await self._place.at_rest()
        began = time.perf_counter()
        (fork,) = await self._engines.fork(source.id)
        return await self._until_it_answers(fork, began)

    async def _next_s(self, snapshot: str) -> float:
        """The same of a moment from which others were begun."""
        await self._place.at_rest()
        began = time.perf_counter()
        engine_id = await self._engines.create(name=_name(), owner_uid=0, snapshot=snapshot)
        return await self._until_it_answers(await self._engines.get(engine_id), began)

    async def _until_it_answers(self, engine: Engine, began: float) -> float:
        try:
            await asyncio.to_thread(_answer, engine)
            return time.perf_counter() - began
        finally:
            await self._engines.delete(engine.id, force=True)

    async def _stand_still(self, engine: Engine, name: str, own: str) -> float:
        """One freeze; the MiB of own pages."""
        await self._place.at_rest()
        async with self._engines.snapshotted(engine.id, _name()) as snapshot_id:
            snapshot = await self._place.client.snapshots.get(snapshot_id)
            manifest = load_manifest(Path(snapshot.snapshot_path))
        own_mib = manifest.plain.size_bytes / (1 << 20)
        self._samples.add(name, snapshot.metadata["standstill_s"])
        self._samples.add(own, own_mib)
        return own_mib

    async def _copy_s(self, mib: float) -> float:
        target = self._place.manager.storage / "copied"
        with tempfile.NamedTemporaryFile(dir=MEMORY) as source:
            for _ in range(int(mib)):
                source.write(os.urandom(1 << 20))
            source.flush()
            try:
                began = time.perf_counter()
                await run("dd", f"if={source.name}", f"of={target}", "bs=1M", "status=none")
                return time.perf_counter() - began
            finally:
                target.unlink(missing_ok=True)


def _name() -> str:
    return f"bench-{uuid4().hex[:8]}"


def _answer(engine: Engine) -> None:
    """Wait until its Redis says what it has held since before the fork."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    (port,) = {one["host_port"] for one in engine.raw["ports"]}
    while True:
        with contextlib.suppress(OSError), socket.create_connection((engine.address, port)) as sock:
            sock.settimeout(BOOT_TIMEOUT_S)
            sock.sendall(_GET)
            said = b""
            while len(said) < VALUE_BYTES and (more := sock.recv(4096)):
                said += more
            if said.startswith(b"$%d\r\nvalue:77777" % VALUE_BYTES):
                return
            if said:
                raise Failed(f"Redis answered {said[:100]!r}")
        if time.monotonic() > deadline:
            raise Failed(f"the Redis of {engine.name} did not answer")
        time.sleep(0.002)  # its VM does not run yet


def _own_mib(engine: Engine) -> float:
    """What its VMM has written to its mapping of the moment's memory."""
    for entry in _processes(engine.raw["vm_id"]):
        with contextlib.suppress(OSError):
            mappings = private_mappings(int(entry.name))
            (memory,) = [found for path, found in mappings.items() if ".mem" in path]
            ranges = own_ranges_of_file(int(entry.name), memory)
            return sum(end - start for start, end in ranges) / (1 << 20)
    raise Failed(f"the VMM of {engine.raw['vm_id']} is not there")


def _resident_mib(vm_id: str) -> float:
    """What is in memory for a VM's processes, each with its share of what others have, too."""
    kib = 0
    for entry in _processes(vm_id):
        with contextlib.suppress(OSError):
            lines = (entry / "smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def _processes(vm_id: str) -> list[Path]:
    needle, found = f"/{vm_id}/".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and needle in (entry / "cmdline").read_bytes():
                found.append(entry)
    return found


_RATIOS = {
    "fork.standstill_over_copy": ("fork.standstill_s", "fork.copy_s"),
    "fork.ready_over_floor": ("fork.ready_s", "fork.floor_s"),
    "fork.next_over_floor": ("fork.next_s", "fork.floor_s"),
    "fork.private_over_ram": ("fork.private_mib", "fork.ram_mib"),
    "park.freed_over_had": ("park.freed_mib", "park.had_mib"),
    "park.wake_over_fork": ("park.wake_s", "fork.next_s"),
}
_OTHERS = ("fork.idle_standstill_s", "fork.idle_own_mib", "fork.own_mib", "fork.pause_s")


def _figures(samples: Samples) -> dict[str, float]:
    """Of what was measured so far."""
    figures = {}
    for ratio, names in _RATIOS.items():
        if all(samples.runs(name) for name in names):
            figures[ratio] = samples.ratio(*names)
            for name in names:
                figures[name] = samples.median(name)
                figures[f"{name}.runs"] = samples.runs(name)
    figures |= {name: samples.median(name) for name in _OTHERS}
    for name in ("fork.eight_s", "park.park_s"):
        if samples.runs(name):
            figures[name] = samples.median(name)
    more_s = figures["fork.standstill_s"] - figures["fork.idle_standstill_s"]
    more_mib = figures["fork.own_mib"] - figures["fork.idle_own_mib"]
    fixed_s = figures["fork.idle_standstill_s"] - figures["fork.idle_own_mib"] * more_s / more_mib
    figures["fork.fixed_s"] = fixed_s
    figures["fork.fixed_over_pause"] = fixed_s / figures["fork.pause_s"]
    return figures
