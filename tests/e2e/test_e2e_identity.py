"""What a clone shares with its siblings: the memory from before. What it does not: the rest."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from pathlib import Path

import pytest
from tests.e2e.copies import shared_snapshot
from tests.e2e.guests import clock, drawn_for_dockerd, who
from tests.support.vms import TINY, Site

from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.errors import ContainerError, GuestError
from warmboot.model.runtime_snapshot import DISK_FILE, MEMORY_FILE, ROOTFS_FILE

PAGE_BYTES = 4096


async def test_two_clones_are_two_machines_with_the_memory_of_one(site: Site) -> None:
    names = ("left", "right")
    found = await asyncio.gather(*(site.run(name, TINY, "sleep", "1000") for name in names))
    assert len({one["runtime_snapshot_id"] for one in found}) == 1
    records = [await site.vm(name) for name in names]
    async with site.link(records[0]) as left, site.link(records[1]) as right:
        for link in (left, right):
            before = time.time()
            there = (await clock(link)).timestamp()
            assert before - 2 < there < time.time() + 2
        mine, other = await asyncio.gather(who(left), who(right))
        secrets = await asyncio.gather(drawn_for_dockerd(left), drawn_for_dockerd(right))
    await _was_in_memory_only(site, secrets)
    assert mine.keys() == other.keys()
    assert [key for key in mine if mine[key] == other[key]] == []
    assert [mine["hostname"], other["hostname"]] == list(names)
    assert [mine["machine_id"], other["machine_id"]] == [
        one["id"].replace("-", "") for one in found
    ]
    assert [mine["token"], other["token"]] == [record.token for record in records]

    async with site.link(records[1], token=records[0].token) as stranger:
        with pytest.raises(GuestError) as refused:
            await stranger.sync()
        assert "401" in refused.value.details
        with pytest.raises(ContainerError, match="token"):
            await stranger.docker.ping()
        # Nor can anybody claim it a second time.
        answer = await _claim_again(stranger)
        assert answer == 401
    async with site.link(records[1]) as owner:
        await owner.sync()


async def _was_in_memory_only(
    site: Site, secrets: tuple[tuple[int, bytes], tuple[int, bytes]]
) -> None:
    """Each clone has it, and of the snapshot's files it is in that of the memory alone."""
    (offset, drawn), other = secrets
    assert (offset, drawn) == other
    assert len(set(drawn)) > 4, "it is random"
    before = PAGE_BYTES - offset  # pages that follow one another do not in a guest's memory
    needle = max(drawn[:before], drawn[before:], key=len)
    folder = (await shared_snapshot(site)).snapshot_path
    found = {
        name: await asyncio.to_thread(_contains, folder / name, needle)
        for name in (MEMORY_FILE, DISK_FILE, ROOTFS_FILE)
    }
    assert found == {MEMORY_FILE: True, DISK_FILE: False, ROOTFS_FILE: False}


def _contains(path: Path, needle: bytes) -> bool:
    """Whether it is anywhere in the file; holes are not read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        start, size = 0, len(content)
        while start < size:
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return False
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            if content.find(needle, max(0, start - len(needle)), end) >= 0:
                return True
            start = end
    return False


async def _claim_again(link: GuestLink) -> int:
    async with link._session.post("http://guest/warmboot/v1/identity", json={}) as response:
        return response.status
