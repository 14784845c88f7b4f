"""A manager with a warm pool and a snapshot for the bench, and the floor of its boots."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from demo.manager import Manager, forget_older_images, image_digest, manager, state_root

from bench.measure import Failed
from bench.progress import Progress
from warmboot.client import Client
from warmboot.host.network import Network, NetworkConfig
from warmboot.host.vm.vm_files import VMM_GID

BOOT_TIMEOUT_S = 300.0
POOL_TIMEOUT_S = 120.0
KERNEL_CONSOLE = "console=hvc0 panic=-1"


async def build_image(progress: Progress) -> Path:
    """The folder of the runtime image, built if it is not there as it should be."""
    image = state_root() / "runtime-image"
    progress.tell("the runtime image")
    await run(sys.executable, "-m", "warmboot.images", "build", "--output", str(image))
    return image


@contextlib.asynccontextmanager
async def place(progress: Progress, image: Path, pool: str) -> AsyncIterator[Place]:
    """A manager with ``pool`` VMs in its warm pool, and a snapshot of ``image``."""
    state = state_root()
    # Its sockets are in its own folder: no two managers share them.
    settings = {
        "MANAGER_AUTO_REBUILD": "false",
        "MANAGER_POOL_MIN_VMS": pool,
        "MANAGER_POOL_MAX_VMS": pool,
        "MANAGER_SOCKET": str(state / "bench" / "m.sock"),
    }
    progress.tell(f"starting a manager and filling its warm pool of {pool}")
    async with (
        manager(
            state / "bench", prefix="wbbench", subnet="198.19.176.0/20", settings=settings
        ) as running,
        Client(running.url) as client,
        _floor_network(state) as network,
    ):
        yield Place(progress, client, running, network, image)


class Place:
    def __init__(
        self,
        progress: Progress,
        client: Client,
        running: Manager,
        network: Network,
        image: Path,
    ) -> None:
        self.client = client
        self.manager = running
        self._progress = progress
        self._network = network
        self._image = image
        self._snapshot = Path()

    async def prepare(self) -> None:
        """Have a ready snapshot of the image."""
        await forget_older_images(self.client, image_digest(self._image))
        registered = await self.client.images.register(
            name="bench", path=str(self._image), build_snapshot=False
        )
        image_id = registered.id
        ready = [s for s in await self.client.snapshots.list() if s.state == "ready"]
        fresh = [s for s in ready if s.runtime_image_id == image_id]
        if not fresh:
            self._progress.tell("building a snapshot")
            snapshot_id = await self.client.snapshots.create(image_id)
            await self.until_ready(snapshot_id)
            fresh = [await self.client.snapshots.get(snapshot_id)]
        self._snapshot = Path(fresh[0].snapshot_path)

    async def at_rest(self) -> None:
        """The warm pool has what it should, so none is made ready beside what is measured."""
        deadline = time.monotonic() + POOL_TIMEOUT_S
        while True:
            kept = (await self.client.system.info())["warm_pool"]
            there, wanted = kept["ready"], kept["size"]
            if there == wanted:
                return
            if time.monotonic() > deadline:
                raise Failed(
                    f"{there} of {wanted} VMs are in the warm pool after {POOL_TIMEOUT_S:g} s: "
                    "they are made ready when nothing else runs, and this machine has other work "
                    f"(load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs)"
                )
            await asyncio.sleep(0.1)  # nobody is told

    async def floor(self) -> float:
        """The least that a warm boot can take here, in seconds (see ``bench.floor``)."""
        return (await self.floor_and_pause())[0]

    async def floor_and_pause(self) -> tuple[float, float]:
        """And the seconds of a pause of the same VM."""
        await self.at_rest()
        slot = await self._network.acquire()
        disk = self.manager.storage / "floor.qcow2"
        base = self._snapshot / "disk.ext4"
        try:
            disk.unlink(missing_ok=True)
            await run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk)
            manifest = json.loads((self._snapshot / "metadata.json").read_text())
            image = (await self.client.images.list())[0]
            folder = Path(image.path)
            output = await run(
                *(sys.executable, "-I", Path(__file__).with_name("floor.py"), self._snapshot),
                *(folder / "kernel", folder / "initrd"),
                f"{manifest['cmdline']} {KERNEL_CONSOLE}",
                *(manifest["shape"]["memory_mib"], manifest["shape"]["vcpus"]),
                *(slot.namespace, disk),
            )
            took, paused = map(float, output.split())
            return took, paused
        finally:
            disk.unlink(missing_ok=True)
            await self._network.release(slot)

    async def until_ready(self, snapshot_id: str) -> None:
        async with self.client.events.follow(after=0) as events:
            async for event in events:
                if event.subject_id == snapshot_id and event.kind.endswith((".ready", ".failed")):
                    break
        snapshot = await self.client.snapshots.get(snapshot_id)
        if snapshot.state != "ready":
            raise Failed(f"the snapshot could not be built: {snapshot.error}")


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


async def run(*command: object) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise Failed(f"{command[0]} failed")
    return output.decode()
