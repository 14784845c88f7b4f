"""What a clone shares with its siblings: the memory from before. What it does not: the rest."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.e2e.guests import clock, who
from tests.support.vms import TINY, Site

from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.errors import ContainerError, GuestError


async def test_two_clones_of_one_snapshot_are_two_machines(site: Site) -> None:
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


async def _claim_again(link: GuestLink) -> int:
    async with link._session.post("http://guest/warmboot/v1/identity", json={}) as response:
        return response.status
