"""A manager of the demo's (or the bench's) own: its storage, port, network names and log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from warmboot.client import Client

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Manager:
    url: str
    pid: int
    storage: Path
    log: Path


def state_root() -> Path:
    """Where the demo, the bench and the tests keep what makes the next run quick."""
    return Path(os.environ.get("WARMBOOT_STATE", ".state")).absolute()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def manager(
    storage: Path, *, prefix: str, subnet: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Manager]:
    """``warmboot serve`` as a process; on leaving it is stopped (its VMs are the caller's)."""
    storage.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = storage / "manager.log"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MANAGER_")},
        "MANAGER_STORAGE_ROOT": str(storage),
        "MANAGER_PORT": str(port),
        "MANAGER_NETWORK_PREFIX": prefix,
        "MANAGER_NETWORK_SUBNET": subnet,
        **(settings or {}),
    }
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warmboot.cli", "serve"),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await _until_ready(url, process, log)
        yield Manager(url, process.pid, storage, log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def forget_older_images(client: Client, digest: str) -> None:
    """Remove what an earlier run, or build of the runtime image, has left in this storage.

    Snapshots of this image stay if they serve: not those of another hypervisor, or half built.
    """
    for container in await client.containers.list(all_states=True):
        await client.containers.delete(container.id, force=True)
    for engine in await client.engines.list():
        await client.engines.delete(engine.id, force=True)
    older = [image for image in await client.images.list() if image.digest != digest]
    gone = {image.id for image in older}
    for snapshot in await client.snapshots.list():
        if snapshot.runtime_image_id in gone or not snapshot.usable:
            await client.snapshots.delete(snapshot.id)
    for image in older:
        await client.images.delete(image.id)


def image_digest(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["digest"])


async def _until_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            late = asyncio.get_running_loop().time() > deadline
            if process.returncode is not None or late:
                tail = log.read_text(errors="replace").splitlines()[-10:]
                raise SystemExit("the manager did not start; its log ends:\n" + "\n".join(tail))
            # Nothing tells from outside when a server begins to listen.
            await asyncio.sleep(0.05)
