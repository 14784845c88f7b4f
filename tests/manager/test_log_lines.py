"""The lines that the specification promises, as ``warmboot serve`` writes them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.managers import IMAGE_NAME, Lab, eventually, image_folder
from tests.support.ports import free_port

from warmboot.client import Client
from warmboot.model.errors import Unavailable
from warmboot.store import Store

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
VM = r"vm-[0-9a-f]+"
SECONDS = r"\d+\.\d{2}s"
MS = r"\d+\.\dms"
NO_SNAPSHOT = "No runtime snapshot available"
FALLS_BACK = f"Warm boot failed for container {ID}, falling back to cold boot: "

PROMISED = (
    ("info", f"Container {ID} VM created: {VM} via warm boot in {SECONDS}"),
    (
        "info",
        rf"Container {ID} fully provisioned in {SECONDS} via warm boot \(saved ~[1-9]\d*s\)",
    ),
    (
        "info",
        f"Container {ID} stages: snapshot {SECONDS}, network {SECONDS}, disk {SECONDS}, "
        rf"restore {SECONDS}, identity {SECONDS} \(entropy {MS}, clock {MS}, machine-id {MS}, "
        rf"hostname {MS}, token {MS}\), docker {SECONDS}, .*create {SECONDS}, start {SECONDS}",
    ),
    ("warning", FALLS_BACK + NO_SNAPSHOT),
    ("warning", FALLS_BACK + "Restore failed: .+"),
    ("info", f"Container {ID} VM created: {VM} via cold boot in {SECONDS}"),
    ("info", f"Container {ID} fully provisioned in {SECONDS} via cold boot"),
    ("info", f"Runtime snapshot {ID} is ready after {SECONDS}"),
)
MOMENT = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d+Z"


@asynccontextmanager
async def serving(place: Lab, log: Path, form: str) -> AsyncIterator[Client]:
    """The program itself; its standard error goes to ``log``."""
    port = free_port()
    settings = {
        "MANAGER_STORAGE_ROOT": str(place.storage),
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_SIMULATION": str(place.simulation),
        "MANAGER_DISK_FLOOR_MIB": "0",
        "MANAGER_PORT": str(port),
        "MANAGER_LOG_FORMAT": form,
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warmboot.cli", "serve"),
            env={**os.environ, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        async with Client(f"http://127.0.0.1:{port}") as client:

            async def answers() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    await client.system.info()
                except Unavailable:
                    return False
                return True

            await eventually(answers, "the manager answers")
            yield client
            for container in await client.containers.list(all_states=True):
                await client.containers.delete(container.id, force=True)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                await process.wait()


async def boot_in_every_way(place: Lab, client: Client) -> None:
    async def run() -> None:
        container_id = await client.containers.create(image="busybox", command=["sleep", "1000"])
        assert (await client.containers.wait(container_id, "running", 60)).state == "running"

    await client.images.register(IMAGE_NAME, path=str(await image_folder()), build_snapshot=False)
    (image,) = await client.images.list()
    await run()
    snapshot_id = await client.snapshots.create(image.id)

    async def ready() -> bool:
        return (await client.snapshots.get(snapshot_id)).state == "ready"

    await eventually(ready, "the snapshot is ready")
    # As if a cold boot took longer than any warm one, however busy the machine is.
    async with Store.open(f"sqlite:///{place.storage / 'warmboot.db'}") as store:
        await store.snapshots.update_metadata(UUID(snapshot_id), {"cold_boot_s": 77.0})
    await run()
    place.set(fail_restore=True)
    await run()


@pytest.fixture(params=["console", "json"])
async def lines(
    request: pytest.FixtureRequest, place: Lab, tmp_path: Path
) -> tuple[str, list[str]]:
    """What it wrote, in one of its two forms."""
    log = tmp_path / "log"
    async with serving(place, log, request.param) as client:
        await boot_in_every_way(place, client)
    return request.param, log.read_text().splitlines()


async def test_every_promised_line_is_logged(lines: tuple[str, list[str]]) -> None:
    form, written = lines
    if form == "json":
        found = [(line["level"], line["event"]) for line in map(json.loads, written)]
        for level, text in PROMISED:
            assert any(re.fullmatch(text, said) and level == at for at, said in found), (
                f"{text}: {found}"
            )
        return
    for level, text in PROMISED:
        name = "WARN" if level == "warning" else "INFO"
        pattern = re.compile(f"{MOMENT} {name} {text}")
        assert any(pattern.fullmatch(line) for line in written), f"{pattern.pattern}: {written}"
