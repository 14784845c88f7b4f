"""The size of engines' disks, on the simulated hypervisor."""

from __future__ import annotations

import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import TIMEOUT_S, Lab, Manager

from warmboot.host.storage.storage import Storage
from warmboot.manager.protocols import EngineUntil
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.tenants.engine import EngineState
from warmboot.model.usage import StorageUsage

GIB = 1 << 30


async def until_handed_over(m: Manager) -> None:
    async def handed_over() -> bool:
        return (await engines_of(m).get("ci")).handed_over

    await m.until(handed_over, "it is handed over")


async def test_a_disk_grows_while_its_engine_comes_up_warm(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        engine = await create(m, disk_mib=9 * 1024)
        assert engine.boot_method is BootMethod.WARM
        await until_handed_over(m)
        stages = [stage.name for stage in (await engines_of(m).get("ci")).stages]
        assert stages[-2:] == ["grow-disk", "hand-over"]
        usage = await engines_of(m).disk("ci")
        assert (usage.size_bytes, usage.used_bytes) == (9 * GIB, 0)
        assert usage.stored_bytes < GIB, "it is sparse"


async def test_a_stopped_engine_keeps_the_size_of_its_disk(place: Lab) -> None:
    async with place.manager() as m:
        await create(m, disk_mib=9 * 1024)
        await until_handed_over(m)
        await engines_of(m).stop("ci")
        stopped = await engines_of(m).disk("ci")
        assert (stopped.size_bytes, stopped.used_bytes) == (None, None)
        assert stopped.stored_bytes > 0
    async with place.manager() as m:
        await engines_of(m).start("ci")
        engine = await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert engine.state is EngineState.RUNNING
        await until_handed_over(m)
        assert (await engines_of(m).disk("ci")).size_bytes == 9 * GIB


async def test_a_disk_that_cannot_be_is_refused(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(engine_disk_mib=16 * 1024) as m:
        await m.image()
        with pytest.raises(InvalidRequest, match="too small") as refused:
            await create(m, disk_mib=0)
        assert "has 1 MiB, and disks only grow" in refused.value.details
        with pytest.raises(InvalidRequest, match="too large") as refused:
            await create(m, disk_mib=16 * 1024 + 1)
        assert "16384 MiB" in refused.value.details
        host = StorageUsage(total_bytes=8 * GIB, free_bytes=4 * GIB, floor_bytes=GIB)
        monkeypatch.setattr(Storage, "usage", lambda self: host)
        with pytest.raises(InvalidRequest, match="too large"):
            await create(m, disk_mib=7 * 1024 + 1)
        assert not await engines_of(m).list()
