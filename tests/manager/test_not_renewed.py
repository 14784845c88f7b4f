"""Guest agents that cannot be renewed: it is said why, and nothing is left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Never

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, image_folder, make_ext4, vmm_pids
from tests.support.rebuilds import event
from tests.support.renewals import (
    OLD,
    folders,
    register,
    renewals,
    renewed,
    spoken,
)

from warmboot.guest import AGENT_VERSION
from warmboot.host.storage.stored_images import StoredImages
from warmboot.images.files import describe, stored_folder, write_manifest
from warmboot.images.renew import renew_agent
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import HostError
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store.repositories.images import RuntimeImageRepository


async def no_agent(folder: Path) -> Path:
    """An image that says that it has an agent of another protocol, and has none."""
    folder.mkdir()
    for file in (await image_folder()).iterdir():
        if file.name not in ("rootfs.ext4", "manifest.json"):
            (folder / file.name).hardlink_to(file)
    await make_ext4(folder / "rootfs.ext4")
    write_manifest(folder, await describe(folder, "quiet", OLD, {}))
    return folder


async def test_an_image_that_cannot_be_renewed_says_what_to_do(place: Lab, tmp_path: Path) -> None:
    async with place.manager() as manager:
        image = await register(manager, await no_agent(tmp_path / "stranger"))
        container = await manager.run()
        assert container.state is ContainerState.FAILED
        error = container.error or {}
        assert error["code"] == "not-supported"
        assert error["brief"] == "the guest agent of the runtime image default could not be renewed"
        assert f"its protocol is {OLD}, this warmboot speaks {AGENT_VERSION}" in error["details"]
        assert "there is no warmboot guest agent" in error["details"]
        assert "`warmboot runtime build`" in error["resolution"]
        told = await event(manager, "runtime-image.renew-failed", image.id)
        assert told.data["error"] == error
        assert vmm_pids(place.storage) == []
        assert folders(place) == {image.path}
        await check(manager.running)


async def test_it_is_tried_again_as_any_rebuild_and_given_up(place: Lab, tmp_path: Path) -> None:
    with spoken(OLD):
        async with place.manager() as manager:
            await register(manager, await no_agent(tmp_path / "stranger"))
            old = await manager.snapshot()
    async with place.manager(rebuild_pause_s=0.01, rebuild_attempts=2) as manager:
        told = await event(manager, "runtime-snapshot.given-up", old.id)
        assert told.data["failures"] == 2
        assert "`warmboot runtime build`" in told.data["error"]["resolution"]
        assert await renewals(manager) == ["runtime-image.renew-failed"] * 2
        await check(manager.running, ready=[old])


async def test_a_first_snapshot_of_it_is_unhealthy_and_says_so(place: Lab, tmp_path: Path) -> None:
    async with place.manager(auto_snapshot=True, rebuild_pause_s=1000) as manager:
        await register(manager, await no_agent(tmp_path / "stranger"))
        (snapshot,) = await manager.snapshots.list()
        failed = await manager.snapshot_until(snapshot.id, SnapshotState.UNHEALTHY)
        assert "`warmboot runtime build`" in (failed.error or {})["resolution"]


async def test_an_image_that_has_these_very_files_is_in_the_way(place: Lab, tmp_path: Path) -> None:
    """Somebody has put the same together by hand."""
    old = await image_folder(OLD)
    same = await renew_agent(old, tmp_path)
    async with place.manager() as manager:
        image = await register(manager)
        path = stored_folder(tmp_path, same.digest)
        manifest = RuntimeImageManifest(same.digest, same.files, same.cmdline, AGENT_VERSION)
        write_manifest(path, manifest)
        await manager.services.images.register(name="other", path=path)
        container = await manager.run(runtime_image_id=image.id)
        assert (container.error or {})["code"] == "conflict"
        assert "`warmboot runtime rm`" in (container.error or {})["resolution"]
        assert len(folders(place)) == 2, "nothing was taken from the other one"
        await check(manager.running)


@pytest.mark.parametrize(
    ("part", "method", "error"),
    [
        (StoredImages, "renew_agent", HostError("made to fail")),
        (StoredImages, "renew_agent", OSError(28, "No space left")),
        (RuntimeImageRepository, "renew", HostError("made to fail")),
    ],
    ids=["copying fails", "no space", "the row fails"],
)
async def test_a_renewal_that_fails_anywhere_leaves_nothing(
    place: Lab, part: type, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Never:
        raise error

    async with place.manager() as manager:
        image = await register(manager)
        with monkeypatch.context() as patch:
            patch.setattr(part, method, fail)
            container = await manager.run()
        expected = "disk-full" if isinstance(error, OSError) else "host-error"
        assert (container.error or {})["code"] == expected
        await nothing_is_left(manager, image)
        await manager.containers.start("web")
        assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING
        await renewed(manager)
        await check(manager.running)


async def test_a_renewal_that_is_cancelled_leaves_nothing(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RuntimeImageRepository, "renew", hang)
    async with place.manager() as manager:
        image = await register(manager)
        await manager.create()
        await reached.wait()
        assert len(folders(place)) == 2
        await manager.containers.delete("web", force=True)
        await nothing_is_left(manager, image)


async def nothing_is_left(manager: Manager, image: RuntimeImage) -> None:
    assert await manager.services.images.list() == (image,)
    assert folders(manager.lab) == {image.path}
    await check(manager.running)
