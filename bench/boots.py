"""Warm, cold and floor; containers; four at once; memory. All through the manager's API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from demo.image import NAME, write_hello_image
from demo.manager import (
    Manager,
    forget_older_images,
    image_digest,
    manager,
    state_root,
)

from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.client.results import Container
from warmboot.host.network import Network, NetworkConfig
from warmboot.host.vm.vm_files import VMM_GID

WARM_ROUNDS = 9
RESTORE_ROUNDS = 9
COLD_EVERY = 3
FOUR_ROUNDS = 9
BOOT_TIMEOUT_S = 300.0
KERNEL_CONSOLE = "console=hvc0 panic=-1"


async def measure(progress: Progress) -> dict[str, float]:
    """The figures of booting and memory."""
    state = state_root()
    image = state / "runtime-image"
    progress.tell("the runtime image")
    await _run(sys.executable, "-m", "warmboot.images", "build", "--output", str(image))
    samples = Samples()
    async with _bench(progress, samples, image, standby="0") as bench:
        await bench.restores()
    async with _bench(progress, samples, image, standby="4") as bench:
        await bench.boots()
        await bench.containers()
        await bench.four()
    return _figures(samples)


@contextlib.asynccontextmanager
async def _bench(
    progress: Progress, samples: Samples, image: Path, standby: str
) -> AsyncIterator[_Bench]:
    """A manager with ``standby`` VMs that stand by, and a snapshot; everything touched once."""
    state = state_root()
    settings = {"MANAGER_AUTO_REBUILD": "false", "MANAGER_STANDBY_VMS": standby}
    progress.tell(f"starting a manager and filling its warm pool of {standby}")
    async with (
        manager(
            state / "bench", prefix="wbbench", subnet="198.19.176.0/20", settings=settings
        ) as running,
        Client(running.url) as client,
        _floor_network(state) as network,
    ):
        bench = _Bench(progress, samples, client, running, network)
        await bench.prepare(image)
        try:
            yield bench
        finally:
            await bench.remove_all()


class _Bench:
    def __init__(
        self,
        progress: Progress,
        samples: Samples,
        client: Client,
        running: Manager,
        network: Network,
    ) -> None:
        self._progress = progress
        self._samples = samples
        self._client = client
        self._manager = running
        self._network = network
        self._snapshot = Path()
        self._archive = ""
        self._count = 0

    async def prepare(self, image: Path) -> None:
        """A ready snapshot, the container image, and everything touched once."""
        self._samples.add("memory.manager_mib", _resident_mib(self._manager.pid))
        await forget_older_images(self._client, image_digest(image))
        registered = await self._client.images.register(
            name="bench", path=str(image), build_snapshot=False
        )
        image_id = registered.id
        ready = [s for s in await self._client.snapshots.list() if s.state == "ready"]
        fresh = [s for s in ready if s.runtime_image_id == image_id]
        if not fresh:
            self._progress.tell("building a snapshot")
            snapshot_id = await self._client.snapshots.create(image_id)
            await self._until_ready(snapshot_id)
            fresh = [await self._client.snapshots.get(snapshot_id)]
        self._snapshot = Path(fresh[0].snapshot_path)
        archive = self._manager.storage / "hello.tar"
        write_hello_image(archive)
        self._archive = await self._client.archives.upload(archive)
        await self._boot("auto")
        await self._floor()

    async def restores(self) -> None:
        """Floor, and warm with nothing standing by: the restore is made when it is asked for."""
        for _ in self._progress.rounds("restores", RESTORE_ROUNDS):
            self._samples.add("restore.floor_s", await self._floor())
            self._samples.add("restore.warm_s", await self._boot("auto"))

    async def boots(self) -> None:
        """Floor, warm and, every third round, cold, one after the other."""
        for number in self._progress.rounds("boots", WARM_ROUNDS):
            self._samples.add("boot.floor_s", await self._floor())
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
            await self._at_rest()
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
        await self._at_rest()
        started = time.perf_counter()
        name = await self._create(boot)
        took = await self._booted(name, started)
        container = await self._client.containers.get(name)
        if (boot == "auto") != (container.boot_method == "warm"):
            raise Failed(f"not {boot} but {container.boot_method}: {container.fallback_details}")
        await self._client.containers.delete(name, force=True)
        return took

    async def _container(self, boot: str) -> float:
        await self._at_rest()
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

    async def _at_rest(self) -> None:
        """As many VMs stand by as shall, so none is made ready beside what is measured."""
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            while True:
                info = await self._client.system.info()
                if info["standby_vms"] == info["standby_vms_most"]:
                    return
                await asyncio.sleep(0.1)  # nobody is told

    async def _floor(self) -> float:
        await self._at_rest()
        slot = await self._network.acquire()
        disk = self._manager.storage / "floor.qcow2"
        base = self._snapshot / "disk.ext4"
        try:
            disk.unlink(missing_ok=True)
            await _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk)
            manifest = json.loads((self._snapshot / "metadata.json").read_text())
            image = (await self._client.images.list())[0]
            folder = Path(image.path)
            output = await _run(
                *(sys.executable, "-I", Path(__file__).with_name("floor.py"), self._snapshot),
                *(folder / "kernel", folder / "initrd"),
                f"{manifest['cmdline']} {KERNEL_CONSOLE}",
                *(manifest["shape"]["memory_mib"], manifest["shape"]["vcpus"]),
                *(slot.namespace, disk),
            )
            return float(output)
        finally:
            disk.unlink(missing_ok=True)
            await self._network.release(slot)

    async def _until_ready(self, snapshot_id: str) -> None:
        async with self._client.events.follow(after=0) as events:
            async for event in events:
                if event.subject_id == snapshot_id and event.kind.endswith((".ready", ".failed")):
                    break
        snapshot = await self._client.snapshots.get(snapshot_id)
        if snapshot.state != "ready":
            raise Failed(f"the snapshot could not be built: {snapshot.error}")


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


@contextlib.asynccontextmanager
async def _floor_network(state: Path) -> AsyncIterator[Network]:
    config = NetworkConfig(
        state_dir=state / "bench" / "floor-network",
        prefix="wbfloor",
        subnet="198.19.160.0/20",
        pool_size=1,
        uid_base=VMM_GID + 50_000,
    )
    network = Network(config)
    await network.start([])
    try:
        yield network
    finally:
        await network.stop(keep=False)


async def _run(*command: object) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise Failed(f"{command[0]} failed")
    return output.decode()


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
