"""The first release is killed in the middle of something, and undone from its journal here."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.earlier import first_release
from tests.support.invariants import check
from tests.support.managers import Lab, eventually, image_folder, lab

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.journal.operation import OperationState
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.tenants.boot import BootMethod

DIES_WITHIN_S = 400

PROGRAM = f"""
import asyncio, json, os, signal, sys
from pathlib import Path
from uuid import UUID

from warmboot import bootstrap
from warmboot.model.container import BootPolicy, ContainerSpec
from warmboot.settings import Settings


async def main(settings, image_path, *at):
    async def hook(saga, step):
        if at == (saga, step):
            os.kill(os.getpid(), signal.SIGKILL)

    async with bootstrap.running(Settings(**settings), hook) as manager:
        services = manager.services
        image = (await services.images.register(name="default", path=Path(image_path))).image
        if at[0] == "boot-vm":
            command = ("sleep", "1000")
            spec = ContainerSpec(name="victim", image="busybox", command=command)
            await services.containers.create(spec)
        else:
            snapshot_id = await services.snapshots.create(image.id, None)
            while (await services.snapshots.get(snapshot_id)).state == "creating":
                await asyncio.sleep(0.02)
        if at[0] == "compress-snapshot":
            await services.forms.compress(snapshot_id)
        if at[0] == "collect-garbage":
            await services.garbage.collect()
        await asyncio.sleep({DIES_WITHIN_S})


asyncio.run(main(*json.loads(sys.argv[1])))
"""


@pytest.fixture
async def place() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


async def die(place: Lab, folder: Path, *at: str) -> None:
    """Run the first release on the storage until it kills itself there."""
    settings = place.settings().model_dump(mode="json", include=place.settings().model_fields_set)
    arguments = json.dumps([settings, str(await image_folder()), *at])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, arguments),
        env={**os.environ, "PYTHONPATH": str(first_release(folder))},
        cwd=folder,
    )
    code = await asyncio.wait_for(process.wait(), DIES_WITHIN_S)
    assert code == -signal.SIGKILL, f"it was to die at {at}, but ended with {code}"


@pytest.mark.parametrize("step", ["lease", "machine", "docker"])
async def test_a_boot_is_undone_and_begun_anew(place: Lab, tmp_path: Path, step: str) -> None:
    await die(place, tmp_path, "boot-vm", step)
    async with place.manager() as manager:
        assert (await manager.wait("victim", Until.RUNNING)).state is ContainerState.RUNNING
        operations = await manager.store.operations.list(open_only=False)
        states = [one.state for one in operations if one.kind == "boot-vm"]
        assert states == [OperationState.UNDONE, OperationState.DONE]
        await check(manager.running)


@pytest.mark.parametrize("step", ["folder", "publish", "canary-machine", "swap"])
async def test_a_build_is_undone_and_begun_anew(place: Lab, tmp_path: Path, step: str) -> None:
    await die(place, tmp_path, "build-snapshot", step)
    async with place.manager() as manager:
        (snapshot,) = await manager.snapshots.list()
        await manager.snapshot_until(snapshot.id, SnapshotState.READY)
        await check(manager.running)
        assert (await manager.run()).boot_method is BootMethod.WARM


@pytest.mark.parametrize("step", ["change", "note"])
async def test_a_change_of_form_is_settled(place: Lab, tmp_path: Path, step: str) -> None:
    await die(place, tmp_path, "compress-snapshot", step)
    async with place.manager() as manager:
        (snapshot,) = await manager.snapshots.list()
        assert snapshot.metadata["compressed"] is (step == "note")
        await check(manager.running, ready=[snapshot])
        names = (f"web-{number}" for number in itertools.count())

        async def is_warm() -> bool:
            return (await manager.run(next(names))).boot_method is BootMethod.WARM

        await eventually(is_warm, "it is used, or what it is rebuilt as for this release's agent")


async def test_a_collection_is_closed(place: Lab, tmp_path: Path) -> None:
    await die(place, tmp_path, "collect-garbage", "leftovers")
    async with place.manager() as manager:
        await check(manager.running)
