"""After an upgrade of warmboot: the agent in a real image is renewed, and what needs it goes on.

The old agent is the shipped one, but for the protocol that it says it speaks. One story on a site
of its own; each test goes on where the one before has ended.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.e2e.conftest import Archive
from tests.e2e.guests import inside
from tests.support.managers import agent_package
from tests.support.vms import BUILD_S, IMPATIENT, TINY, Site, eventually, state_root

from warmboot.client.results import RuntimeSnapshot as Seen
from warmboot.guest import AGENT_VERSION
from warmboot.images import renew_agent
from warmboot.images.files import stored_folder
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape

pytestmark = pytest.mark.random_order(disabled=True)  # one story

OLD = "0"


@dataclass
class Upgraded:
    """A site whose warmboot was upgraded: an image with an old agent, and its stale snapshot."""

    site: Site
    image_id: UUID
    first: Path
    """The folder that the disk of the container ``early`` lies on."""
    old: Path
    """The folder that the image has after the upgrade."""
    stale: UUID


@pytest.fixture(scope="module")
async def upgraded(
    image_folder: Path, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Upgraded]:
    async with Site.at(
        state_root() / "e2e-renewal",
        prefix="wbg",
        subnet="198.19.240.0/22",
        settings={
            **IMPATIENT,
            "MANAGER_AUTO_SNAPSHOT": "false",
            "MANAGER_REBUILD_PAUSE_S": "5",
        },
    ) as site:
        await site.start()
        await site.cli("runtime", "register", "--name", "default", str(image_folder))
        words = ("--archive", str(archive.path), archive.name, "sleep", "1000")
        await site.run("early", *words)
        await site.exec("early", "echo precious > /kept; sync")
        await site.stop()
        for pid in site.vmms():  # the machine was rebooted, too
            os.kill(pid, signal.SIGKILL)
        package = agent_package(tmp_path_factory.mktemp("old") / "guest", OLD)
        yield await _upgrade(site, package)
        await site.remove_containers()
    assert await site.on_the_machine() == []


async def _upgrade(site: Site, package: Path) -> Upgraded:
    """Have the image be one of a warmboot whose agent spoke another protocol."""
    async with site.store() as store:
        (image,) = await store.images.list()
        manifest = await renew_agent(image.path, site.storage, package)
        folder = stored_folder(site.storage, manifest.digest)
        await store.images.renew(image.id, image.digest, manifest.digest, folder, manifest)
        here = json.loads(await store.meta.get("host") or "")
        stale = uuid4()
        await store.snapshots.add(
            RuntimeSnapshot(
                id=stale,
                runtime_image_id=image.id,
                snapshot_path=site.storage / "runtime-snapshots" / str(image.id) / str(stale),
                state=SnapshotState.CREATING,
                hypervisor=here["hypervisor"],
                fc_version=here["hypervisor_version"],
                shape=Shape(2, 768),
                created_at=datetime.now(UTC),
                metadata={"agent_version": OLD, "requires": here, "size_bytes": 0},
            )
        )
        await store.snapshots.set_state(stale, SnapshotState.READY)
        return Upgraded(site, image.id, image.path, folder, stale)


async def test_a_container_starts_on_its_disk_with_an_agent_that_is_understood(
    upgraded: Upgraded,
) -> None:
    site = upgraded.site
    await site.start()
    await site.cli("start", "early")
    again = await site.inspect("early")
    assert (again["state"], again["boot_method"]) == ("running", "cold")
    assert again["fallback_reason"] == "keeps_disk"
    assert await site.exec("early", "cat /kept") == "precious\n"
    record = await site.vm("early")
    async with site.link(record) as link:
        assert (await link.health())["version"] == AGENT_VERSION
        path = "/guest/usr/lib/warmboot/guest"
        assert f'"{AGENT_VERSION}"' in await inside(link, f"cat {path}/__init__.py")
    assert await _image(upgraded) not in (upgraded.first, upgraded.old)


async def test_the_snapshot_is_migrated_and_boots_warm(upgraded: Upgraded) -> None:
    site = upgraded.site

    async def ready() -> Seen | None:
        async with site.client() as client:
            found = [one for one in await client.snapshots.list() if one.state == "ready"]
        return next((one for one in found if one.cause == "migration"), None)

    migrated = await eventually(ready, "the snapshot is migrated", BUILD_S)
    assert (migrated.usable, migrated.version) == (True, 2)
    assert migrated.metadata["agent_version"] == AGENT_VERSION
    booted = await site.run("warm", TINY, "sleep", "1000")
    assert (booted["boot_method"], booted["snapshot_version"]) == ("warm", 2)
    async with site.store() as store:
        events = await store.events.since(0, 10_000)
    (told,) = [e for e in events if e.subject_id == str(upgraded.image_id) and "renew" in e.kind]
    assert told.kind == "runtime-image.renewed"
    assert (told.data["was"], told.data["agent"]) == (OLD, AGENT_VERSION)
    kinds = [e.kind for e in events if e.subject_id == str(upgraded.stale)]
    assert kinds == ["runtime-snapshot.unusable", "runtime-snapshot.deleted"]


async def test_the_old_files_go_when_no_disk_lies_on_them(upgraded: Upgraded) -> None:
    site, now = upgraded.site, await _image(upgraded)
    folders = site.storage / "runtime-images"
    await site.cli("gc")
    assert set(folders.iterdir()) == {upgraded.first, now}
    assert await site.exec("early", "cat /kept") == "precious\n"
    await site.remove_containers()
    await site.cli("gc")
    assert set(folders.iterdir()) == {now}
    assert site.temporary_files() == []


async def _image(upgraded: Upgraded) -> Path:
    """The folder of the image; that it is the same image is checked."""
    async with upgraded.site.client() as client:
        (image,) = await client.images.list()
    assert (image.id, image.name) == (str(upgraded.image_id), "default")
    assert image.raw["agent_version"] == AGENT_VERSION
    return Path(image.path)
