"""Where a container's image comes from: a real registry on this host, or an archive."""

from __future__ import annotations

import asyncio
import gzip
import lzma
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import zstandard
from tests.e2e.conftest import PAGE, Archive
from tests.e2e.guests import UNREACHED, fetch_all
from tests.e2e.test_e2e_boot import fetch
from tests.support.ports import free_port
from tests.support.registry import (
    Image,
    push,
    registry,
    registry_that_falls_silent,
    renamed,
    silent_registry,
    untagged,
)
from tests.support.vms import TINY, Site, eventually, slot_of

from warmboot.model.errors import NotFound

SAY = ("sh", "-c", "busybox cat /www/index.html; sleep 1000")


@pytest.fixture(scope="module")
async def registry_port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    async with registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.mark.registry
async def test_an_image_of_the_hosts_own_registry_is_pulled_by_the_guest(
    site: Site, archive: Archive, registry_port: int
) -> None:
    await push(Image.of(archive.content), registry_port, "e2e/app", "1")
    reference = f"localhost:{registry_port}/e2e/app:1"
    found = await site.run("pulled", "-p", "8080", reference)
    assert (found["boot_method"], found["image"]) == ("warm", reference)
    assert "pull" in [stage["name"] for stage in found["stages"]]

    slot = slot_of(await site.vm("pulled"))
    ways = (slot.gateway_ip, slot.guest_ip, slot.host_ip, "127.0.0.1")
    seen = await fetch_all(
        site, "pulled", ["127.0.0.1:8080", *(f"{ip}:{registry_port}" for ip in ways)]
    )
    assert seen.pop("127.0.0.1:8080") == PAGE.decode().strip()
    assert len(seen) == 4
    assert [text for text in seen.values() if not UNREACHED.fullmatch(text)] == []

    prepared = (await site.cli("image", "prepare", reference)).out.strip()
    try:
        quick = await site.run("quick", "-p", "8080", reference)
        assert (quick["boot_method"], quick["runtime_snapshot_id"]) == ("warm", prepared)
        assert "pull" not in [stage["name"] for stage in quick["stages"]]
        assert site.log_lines(f"{reference} is prepared after")
    finally:
        await site.cli("image", "rm", reference)
    record = await site.vm("quick")
    async with site.link(record) as link:
        with pytest.raises(NotFound):  # a start was walked with it, and it was removed
            await link.docker.inspect("warmboot-walk")
    assert await fetch(quick["ports"][0]["host_port"]) == PAGE, "it runs on without its snapshot"


@pytest.mark.registry
async def test_an_image_that_does_not_exist(site: Site, registry_port: int) -> None:
    reference = f"localhost:{registry_port}/e2e/nothing:7"
    ran = await site.cli("run", "-d", "--keep", "--name", "missing", reference, code=125)
    assert f"error: there is no image {reference}" in ran.err
    assert "next: check its name and tag" in ran.err
    await _failed_without_residue(site, "missing", "image-not-found")
    await site.cli("run", "-d", "--name", "not-kept", reference, code=125)
    await site.cli("inspect", "not-kept", code=1)


async def test_a_registry_that_is_not_there(site: Site) -> None:
    reference = f"localhost:{free_port()}/app:1"
    ran = await site.cli("run", "-d", "--keep", "--name", "nowhere", reference, code=125)
    assert f"error: {reference} could not be pulled" in ran.err
    assert "next: check that the registry runs" in ran.err
    await _failed_without_residue(site, "nowhere", "registry-unavailable")


async def test_a_registry_that_does_not_answer(site: Site) -> None:
    with silent_registry() as port:
        reference = f"localhost:{port}/app:1"
        began = time.monotonic()
        ran = await site.cli("run", "-d", "--keep", "--name", "silent", reference, code=125)
        assert time.monotonic() - began < 180
    assert f"error: {reference} could not be pulled" in ran.err
    await _failed_without_residue(site, "silent", "registry-unavailable")


async def test_a_registry_that_falls_silent(site: Site) -> None:
    """Docker in the guest would wait for it for ever. Meanwhile the VM of an exited container is
    parked."""
    await site.cli("run", "--name", "ended", TINY, "sh", "-c", "echo said; exit 3", code=3)
    await site.stop()
    await site.start({"MANAGER_PULL_SILENCE_S": "10", "MANAGER_PARK_EXITED_AFTER_S": "4"})
    async with registry_that_falls_silent() as port:
        reference = f"localhost:{port}/app:1"
        ran = await site.cli("run", "-d", "--keep", "--name", "silenced", reference, code=125)
    assert f"error: {reference} could not be pulled" in ran.err
    found = await site.inspect("silenced")
    assert "said nothing for 10 s" in found["error"]["details"]
    await _starts_again_after_it_was_put_away(site, "ended", "said\n")
    await _failed_without_residue(site, "silenced", "registry-unavailable")
    await site.stop()
    await site.start()


async def _starts_again_after_it_was_put_away(site: Site, name: str, said: str) -> None:
    async def put_away() -> bool:
        return site.vmms() == []

    await eventually(put_away, "its VM is parked")
    ended = await site.inspect(name)
    assert (ended["state"], ended["exit_code"], ended["vm_id"]) == ("exited", 3, None)
    assert (await site.cli("logs", name)).out == said
    assert site.vmms() == [], "its log was read from the copy"
    await site.cli("start", name)

    async def again() -> bool:
        return (await site.cli("logs", name)).out == said * 2

    await eventually(again, "it has run once more, in the VM that was parked")
    assert (await site.inspect(name))["boot_method"] == "warm"
    await site.cli("rm", "-f", name)


async def _failed_without_residue(site: Site, name: str, code: str) -> None:
    found = await site.inspect(name)
    assert (found["state"], found["error"]["code"]) == ("failed", code)
    assert found["vm_id"] is None
    assert site.vmms() == []
    async with site.store() as store:
        assert await store.vms.list() == ()
        for snapshot in await store.snapshots.list():
            assert await store.snapshots.leases(snapshot.id) == ()


KINDS: Mapping[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "packed-again": ("image.tar", "warmboot", bytes),
    "docker-save-untagged": ("image.tar.gz", "< {path} warmboot", gzip.compress),
    "oci": ("image.tar.xz", "cat {path} | warmboot", lzma.compress),
    "oci-untagged": ("image.tar.zst", "warmboot", zstandard.compress),
}
"""How each is called, comes to the command line, and is compressed."""


@pytest.mark.parametrize("kind", KINDS)
async def test_an_archive_is_loaded(
    site: Site, archive: Archive, tmp_path: Path, kind: str
) -> None:
    image = Image.of(archive.content)
    content = {
        # As by ``tar -C folder -cf image.tar .``, and with all of the name.
        "packed-again": lambda: renamed(archive.content, "docker.io/e2e/named:3", "./"),
        "docker-save-untagged": lambda: untagged(archive.content),
        "oci": lambda: image.oci_layout("e2e/named:3"),
        "oci-untagged": lambda: image.oci_layout(None),
    }[kind]()
    name, way, compressed = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(compressed(content))
    from_stdin = way != "warmboot"
    words = ["run", "-d", "--name", "loaded", "--archive", "/dev/stdin" if from_stdin else path]
    run = [sys.executable, "-m", "warmboot.cli", *words, "e2e/named:3", *SAY]
    program = shlex.join(map(str, run))
    process = await asyncio.create_subprocess_shell(
        way.format(path=path).replace("warmboot", program), env=site.environment
    )
    assert await process.wait() == 0
    found = await site.inspect("loaded")
    assert (found["state"], found["boot_method"]) == ("running", "warm")

    async def said() -> bool:
        return "hello from a container" in (await site.cli("logs", "loaded")).out

    await eventually(said, "its output")


async def test_an_archive_whose_only_image_has_another_name_gets_the_name_asked_for(
    site: Site, archive: Archive
) -> None:
    found = await site.run("renamed", "--archive", str(archive.path), "e2e/other:1", *SAY)
    assert (found["state"], found["image"]) == ("running", "e2e/other:1")
