"""A thousand containers on the simulated hypervisor, over one: what grows with what is not
asked about.

    one live    ─▶ creates, timed ─▶ ten live ─▶ restarts, timed
    a thousand  ─▶ creates, timed ─▶ restarts, timed

A create is timed from its request until the container runs; it is removed before the next. A
restart is timed from the start of the manager's process until ``/readyz``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from demo.manager import Manager, manager

from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.client.results import Container
from warmboot.system.concurrency import some_at_once
from warmboot.system.procfs import stat_fields
from warmboot.system.usage import free_memory_mib

FEW, MANY = 10, 1000
CREATES = 40
RESTARTS = 3
AT_ONCE = 4
"""Containers that are created or removed at once, on the way from few to many."""

ROOTFS_BYTES = 4 << 20
BUILD_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 60.0
IDLE_S = 5.0
IMAGE = "bench"
SLEEP = ("sleep", "86400")


async def measure(progress: Progress) -> dict[str, float]:
    """``scale.…``, and the medians in seconds that they are made from."""
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as folder:
        storage = Path(folder)
        rootfs = storage / "rootfs.ext4"
        await _make_rootfs(rootfs)
        progress.tell("a manager, and a snapshot of its simulated hypervisor")
        async with _running(storage) as (_, client):
            await _prepare(client, rootfs)
        try:
            for live, name in ((1, "one"), (FEW, "few"), (MANY, "many")):
                await _scale_to(live, name, storage, progress, samples)
        finally:
            progress.tell("removing the containers")
            async with _running(storage) as (_, client):
                await _remove_all(client)
    return {
        "scale.thousand_over_one": samples.ratio("create many", "create one"),
        "scale.restart_thousand_over_ten": samples.ratio("restart many", "restart few"),
        "scale.create_one_s": samples.median("create one"),
        "scale.create_thousand_s": samples.median("create many"),
        "scale.restart_ten_s": samples.median("restart few"),
        "scale.restart_thousand_s": samples.median("restart many"),
        "scale.manager_idle_cpu": samples.median("idle many"),
        "scale.manager_kib_a_container": (samples.median("rss many") - samples.median("rss one"))
        * 1024
        / (MANY - 1),
        "scale.fill_per_s": samples.median("fill many"),
        "scale.host_mib_a_vm": samples.median("host many"),
    }


async def _scale_to(
    live: int, name: str, storage: Path, progress: Progress, samples: Samples
) -> None:
    async with _running(storage) as (running, client):
        there = len(await client.containers.list())
        free_mib, began = free_memory_mib(), time.perf_counter()
        await _fill(client, range(there, live), progress)
        samples.add(f"fill {name}", (live - there) / (time.perf_counter() - began))
        samples.add(f"host {name}", (free_mib - free_memory_mib()) / max(1, live - there))
        if name != "few":
            for number in progress.rounds(f"a create beside {live}", CREATES):
                samples.add(f"create {name}", await _create(client, f"timed-{number}"))
                await client.containers.delete(f"timed-{number}", force=True)
        samples.add(f"rss {name}", _rss_mib(running.pid))
        samples.add(f"idle {name}", await _idle_cpu(running.pid))
    for _ in progress.rounds(f"a restart with {live}", 0 if name == "one" else RESTARTS):
        began = time.perf_counter()
        async with _running(storage):
            samples.add(f"restart {name}", time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _running(storage: Path) -> AsyncIterator[tuple[Manager, Client]]:
    settings = {
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_AUTO_REBUILD": "false",
        "MANAGER_POOL_MAX_VMS": "0",
        "MANAGER_SOCKET": str(storage / "m.sock"),
    }
    async with (
        manager(storage, prefix="wbs", subnet="198.19.192.0/20", settings=settings) as running,
        Client(running.url) as client,
    ):
        yield running, client


async def _make_rootfs(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(ROOTFS_BYTES)
    mke2fs = shutil.which("mke2fs") or "/sbin/mke2fs"
    process = await asyncio.create_subprocess_exec(mke2fs, "-q", "-F", "-t", "ext4", path)
    if await process.wait() != 0:
        raise Failed("mke2fs failed")


async def _prepare(client: Client, rootfs: Path) -> None:
    """A ready snapshot. The simulated hypervisor takes any program for a kernel."""
    await client.images.register(name=IMAGE, kernel=sys.executable, rootfs=str(rootfs))
    async with asyncio.timeout(BUILD_TIMEOUT_S), client.events.follow(after=0) as events:
        async for event in events:
            if event.kind == "runtime-snapshot.failed":
                raise Failed(f"the snapshot could not be built: {event.data}")
            if event.kind == "runtime-snapshot.ready":
                return


async def _create(client: Client, name: str) -> float:
    """The seconds until it runs."""
    began = time.perf_counter()
    await client.containers.create(IMAGE, SLEEP, name=name)
    container = await client.containers.wait(name, "running", RUN_TIMEOUT_S)
    took_s = time.perf_counter() - began
    if container.state != "running" or container.boot_method != "warm":
        raise Failed(f"{name} was to boot warm: {container.error or container.fallback_details}")
    return took_s


async def _fill(client: Client, numbers: Iterable[int], progress: Progress) -> None:
    async def create(number: int) -> None:
        await _create(client, f"live-{number}")
        if number % 100 == 0:
            progress.tell(f"{number} containers run")

    await some_at_once(AT_ONCE, create, numbers)


async def _remove_all(client: Client) -> None:
    async def remove(container: Container) -> None:
        await client.containers.delete(container.id, force=True)

    await some_at_once(AT_ONCE, remove, await client.containers.list(all_states=True))


async def _idle_cpu(pid: int) -> float:
    """The part of a processor that the manager takes while nobody asks it anything."""
    before_s, began = _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(IDLE_S)  # it is this time that is looked at
    return (_cpu_s(pid) - before_s) / (time.perf_counter() - began)


def _cpu_s(pid: int) -> float:
    user, system = stat_fields(Path(f"/proc/{pid}"))[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
