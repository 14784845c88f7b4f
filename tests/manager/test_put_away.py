"""An exited container's VM is parked after a while, and nobody notices."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.manager.test_parked import fails, moments
from tests.support.eventually import eventually
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, exited_vms, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.host.vms import Vms
from warmboot.manager.protocols import Until
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import Conflict, HostError
from warmboot.model.sessions import ExecSpec
from warmboot.model.tenants.boot import FallbackReason


async def test_an_exited_container_gives_its_memory_back_and_is_as_before(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    said = "echo out; echo err >&2; echo last; exit 3"

    async def lies(m: Manager) -> Container | None:
        found = await m.containers.get("web")
        return found if found.is_put_away and vmm_pids(place.storage) == [] else None

    async def log(m: Manager, **options: Any) -> list[tuple[str, bytes]]:
        chunks = [one async for one in m.containers.logs("web", **options)]
        return [(one.stream, one.data) for one in chunks]

    async with place.manager() as m:
        await m.run("web", "sh", "-c", said)
        ended = await m.wait("web", Until.EXITED)
        written, told_with_times = await log(m), await log(m, timestamps=True)
        assert b"".join(data for _, data in written).startswith(b"out\nerr\n")
    async with place.manager(park_exited_after_s=0.2) as m:
        put_away = await eventually(lambda: lies(m), timeout_s=60)
        assert (put_away.state, put_away.exit_code) == (ContainerState.EXITED, 3)
        for options in ({}, {"follow": True}):
            joined = b"".join(data for _, data in await log(m, **options))
            assert joined == b"".join(data for _, data in written)
        times = b"".join(data for _, data in await log(m, timestamps=True))
        assert times == b"".join(data for _, data in told_with_times)
        assert ("stderr", b"err\n") in await log(m)
        assert (await log(m, tail=1)) == [("stdout", b"last\n")]
        assert await log(m, since=datetime.now(UTC)) == []
        assert vmm_pids(place.storage) == [], "nobody has woken it"
        await check(m.running)
    async with place.manager() as m:  # another one, which lets it run
        assert await lies(m)
        assert await m.services.files.changes("web") is not None  # wakes it
        woken = await m.containers.get("web")
        assert (woken.state, woken.exit_code) == (ContainerState.EXITED, 3)
        assert woken.finished_at == ended.finished_at
        assert len(vmm_pids(place.storage)) == 1
        await exited_vms(m).put_away(woken.id)
        assert await lies(m)
        await m.containers.start("web")
        again = await m.wait("web", Until.EXITED)
        assert again.exit_code == 3
        assert b"".join(data for _, data in await log(m)).count(b"out\n") == 2
        assert len(await moments(m)) == 1
        await exited_vms(m).put_away(woken.id)
        with monkeypatch.context() as patched:  # it cannot be woken: its disk is all there
            patched.setattr(Vms, "restore", fails)
            with pytest.raises(HostError):
                await m.services.files.changes("web")
            assert await lies(m)
            with monkeypatch.context() as failing:
                failing.setattr(Vms, "boot", fails)
                await m.containers.start("web")
                failed = await m.wait("web", Until.RUNNING)
                assert failed.state is ContainerState.FAILED
            await m.containers.start("web")
            assert (await m.wait("web", Until.EXITED)).exit_code == 3
        by = (await m.containers.get("web")).fallback_reason
        assert by is FallbackReason.KEEPS_DISK
        await check(m.running)
        await exited_vms(m).put_away(woken.id)
        await m.containers.delete("web")
        assert await moments(m) == []
        assert list((place.storage / "kept-output").iterdir()) == []
        await check(m.running)


async def test_who_reads_its_log_while_it_is_being_parked_is_not_cut_off(place: Lab) -> None:
    await prepare(place, snapshot=True)
    reading: list[asyncio.Task[bytes]] = []

    async def log(m: Manager) -> bytes:
        return b"".join([one.data async for one in m.containers.logs("web")])

    async def hook(saga: str, step: str) -> None:
        if (saga, step) == ("put-away-container", "parked"):
            reading.append(asyncio.create_task(log(m)))
            await asyncio.wait(reading, timeout=0.5)  # it has come as far as it can

    async with place.manager(hook) as m:
        await m.run("web", "sh", "-c", "echo out")
        ended = await m.wait("web", Until.EXITED)
        await exited_vms(m).put_away(ended.id)
        (one,) = reading
        assert await one == b"out\n"
        assert (await m.containers.get("web")).vm_id is not None, "it was woken for that"
        with pytest.raises(Conflict, match="is not running"):
            await m.containers.exec("web", ExecSpec(("true",)))
        reading.clear()
        await exited_vms(m).put_away(ended.id)
        await reading.pop()
        await m.containers.delete("web")
        await check(m.running)
