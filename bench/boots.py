"""Warm, cold and floor; containers; four at once; memory. All through the manager's API."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from demo.image import NAME, write_hello_image

from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place
from bench.progress import Progress
from warmboot.client.results import Container

WARM_ROUNDS = 9
RESTORE_ROUNDS = 9
COLD_EVERY = 3
FOUR_ROUNDS = 9


async def measure(progress: Progress) -> dict[str, float]:
    """The figures of booting and memory."""
    image = await build_image(progress)
    samples = Samples()
    async with _bench(progress, samples, image, pool="0") as bench:
        await bench.restores()
    async with _bench(progress, samples, image, pool="4") as bench:
        await bench.boots()
        await bench.containers()
        await bench.four()
    return _figures(samples)


@contextlib.asynccontextmanager
async def _bench(
    progress: Progress, samples: Samples, image: Path, pool: str
) -> AsyncIterator[_Bench]:
    """A place with everything touched once."""
    async with place(progress, image, pool) as at:
        bench = _Bench(progress, samples, at)
        await bench.prepare()
        try:
            yield bench
        finally:
            await bench.remove_all()


class _Bench:
    def __init__(self, progress: Progress, samples: Samples, place: Place) -> None:
        self._progress = progress
        self._samples = samples
        self._place = place
        self._client = place.client
        self._archive = ""
        self._count = 0

    async def prepare(self) -> None:
        """A ready snapshot, the container image, and everything touched once."""
        self._samples.add("memory.manager_mib", _resident_mib(self._place.manager.pid))
        await self._place.prepare()
        archive = self._place.manager.storage / "hello.tar"
        write_hello_image(archive)
        self._archive = await self._client.archives.upload(archive)
        await self._boot("auto")
        await self._place.floor()

    async def restores(self) -> None:
        """Floor, and warm with nothing standing by: the restore is made when it is asked for."""
        for _ in self._progress.rounds("restores", RESTORE_ROUNDS):
            self._samples.add("restore.floor_s", await self._place.floor())
            self._samples.add("restore.warm_s", await self._boot("auto"))

    async def boots(self) -> None:
        """Floor, warm and, every third round, cold, one after the other."""
        for number in self._progress.rounds("boots", WARM_ROUNDS):
            self._samples.add("boot.floor_s", await self._place.floor())
            self._samples.add("boot.warm_s", await self._boot("auto"))
            if number % COLD_EVERY == 0:
                self._samples.add("boot.cold_s", await self._boot("cold"))

    async def containers(self) -> None:
        """Create → running, the time to bring the image into the guest taken out of both."""
        for _ in self._progress.rounds("containers", COLD_EVERY):
            self._samples.add("container.warm_s", await self._container("auto"))
            self._samples.add("container.cold_s", await self._container("cold"))

    async def four(self) -> None:
        """One warm boot, four begun at once; and what an idle VM has for itself among clones."""
        for _ in self._progress.rounds("four at once", FOUR_ROUNDS):
            self._samples.add("boot.one_s", await self._boot("auto"))
            await self._place.at_rest()
            started = time.perf_counter()
            booted = await asyncio.gather(*(self._boot_from(started) for _ in range(4)))
            for name, took in booted:
                self._samples.add("boot.four_s", took)
                container = await self._client.containers.wait(
                    name, until="running", timeout_s=BOOT_TIMEOUT_S
                )
                private, ram = _private_mib(container)
                self._samples.add("memory.private_mib", private)
                self._samples.add("memory.ram_mib", ram)
            await self.remove_all()

    async def remove_all(self) -> None:
        for container in await self._client.containers.list(all_states=True):
            await self._client.containers.delete(container.id, force=True)

    # -- one measurement -----------------------------------------------------------------------

    async def _create(self, boot: str) -> str:
        self._count += 1
        return await self._client.containers.create(
            image=NAME, name=f"bench-{self._count}", boot=boot, archive=self._archive
        )

    async def _boot_from(self, started: float) -> tuple[str, float]:
        name = await self._create("auto")
        return name, await self._booted(name, started)

    async def _booted(self, name: str, started: float) -> float:
        container = await self._client.containers.wait(
            name, until="booted", timeout_s=BOOT_TIMEOUT_S
        )
        took = time.perf_counter() - started
        if container.boot_method is None:
            raise Failed(f"a boot failed: {container.error}")
        return took

    async def _boot(self, boot: str) -> float:
        """API request → Docker in the guest has answered."""
        await self._place.at_rest()
        started = time.perf_counter()
        name = await self._create(boot)
        took = await self._booted(name, started)
        container = await self._client.containers.get(name)
        if (boot == "auto") != (container.boot_method == "warm"):
            raise Failed(f"not {boot} but {container.boot_method}: {container.fallback_details}")
        await self._client.containers.delete(name, force=True)
        return took

    async def _container(self, boot: str) -> float:
        await self._place.at_rest()
        started = time.perf_counter()
        name = await self._create(boot)
        container = await self._client.containers.wait(
            name, until="running", timeout_s=BOOT_TIMEOUT_S
        )
        took = time.perf_counter() - started
        if container.state != "running":
            raise Failed(f"a container did not start: {container.error}")
        loading = sum(stage.duration_s for stage in container.stages if stage.name == "load")
        await self._client.containers.delete(name, force=True)
        return took - loading


def _figures(s: Samples) -> dict[str, float]:
    figures = {
        "boot.warm_over_floor": s.ratio("boot.warm_s", "boot.floor_s"),
        "boot.cold_over_warm": s.ratio("boot.cold_s", "boot.warm_s"),
        "container.cold_over_warm": s.ratio("container.cold_s", "container.warm_s"),
        "boot.four_over_one": s.ratio("boot.four_s", "boot.one_s"),
        "memory.private_over_ram": s.ratio("memory.private_mib", "memory.ram_mib"),
        "memory.manager_mib": s.median("memory.manager_mib"),
        "restore.warm_over_floor": s.ratio("restore.warm_s", "restore.floor_s"),
        "restore.cold_over_warm": s.ratio("boot.cold_s", "restore.warm_s"),
    }
    for name in (
        *("boot.floor_s", "boot.warm_s", "boot.cold_s", "boot.one_s", "boot.four_s"),
        *("restore.floor_s", "restore.warm_s"),
        *("container.warm_s", "container.cold_s"),
        *("memory.private_mib", "memory.ram_mib"),
    ):
        figures[name] = s.median(name)
        figures[f"{name}.runs"] = s.runs(name)
    return figures


def _private_mib(container: Container) -> tuple[float, float]:
    """What the VM's process has for itself alone, and the VM's RAM, in MiB."""
    vm_id = container.raw["vm_id"]
    needle = f"/{vm_id}/".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and needle in _read(entry / "cmdline"):
            fields = dict(
                line.split(":", 1)
                for line in _read(entry / "smaps_rollup").decode().splitlines()[1:]
            )
            private = sum(int(fields[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))
            return private / 1024, float(container.shape.memory_mib)
    raise Failed(f"the VMM of {vm_id} is not there")


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise Failed("the manager is not there")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
