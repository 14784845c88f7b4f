"""Containers and engines that stand still in memory, on the simulated hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.eventually import eventually
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.host.vm import live_vm
from warmboot.hypervisors.simulated.vm import SimulatedVm
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.protocols import Until
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import Conflict, IllegalTransition, InUse, NotFound, VmUnresponsive
from warmboot.model.sessions import ExecSpec
from warmboot.model.tenants.boot import Tenant
from warmboot.model.tenants.engine import EngineState
from warmboot.model.vm import VmStatus
from warmboot.store.repositories.named.containers import ContainerRepository
from warmboot.system.file_stamps import UNFINISHED

SILENT_S = 3.0
"""How long a VM may be silent: what runs on a busy machine is not accused of it."""

HANGS_S = 120.0
"""As good as for ever: it ends, so that a test may fail."""


async def status_of(m: Manager, ref: str) -> VmStatus:
    """What its VMM says."""
    (record,) = await m.store.vms.of_owner((await m.containers.get(ref)).id)
    return await m.host.vms._machine(record.id).vm.status()


async def told(m: Manager, subject_id: object) -> list[str]:
    kinds = [event.kind.partition(".")[2] for event in await m.events_of(subject_id)]
    return [kind for kind in kinds if kind in ("paused", "unpaused", "unresponsive", "failed")]


def hang(monkeypatch: pytest.MonkeyPatch, *methods: str, within_s: float) -> asyncio.Event:
    """Have VMMs not answer this any more, ``within_s`` they should; set when one is asked."""
    monkeypatch.setattr(live_vm, "ANSWER_S", within_s)
    monkeypatch.setattr(live_vm, "STATUS_S", 0.1)
    asked = asyncio.Event()

    async def hanging(_: SimulatedVm) -> None:
        asked.set()
        await asyncio.sleep(HANGS_S)

    for method in methods:
        monkeypatch.setattr(SimulatedVm, method, hanging)
    return asked


async def refused(work: Awaitable[object], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        await work


async def test_a_paused_container_stands_still_and_goes_on(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager(unresponsive_after_s=SILENT_S) as m:
        ran = await m.run("web", "sh", "-c", f"sleep {SILENT_S}; echo over; exit 7")
        await m.containers.pause("web")
        assert await status_of(m, "web") is VmStatus.PAUSED
        assert (await m.containers.get("web")).state is ContainerState.PAUSED
        assert [one.name for one in await m.containers.list()] == ["web"]
        # Longer than it would have run, and than a VM may be silent.
        await asyncio.sleep(SILENT_S + 0.5)
        assert (await m.containers.get("web")).state is ContainerState.PAUSED
        await m.containers.unpause("web")
        assert await told(m, ran.id) == ["paused", "unpaused"]
        assert (await m.wait("web", Until.EXITED)).exit_code == 7
        assert await m.output("web") == b"over\n"


async def test_what_would_ask_its_guest_is_refused_and_its_end_is_not(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        await refused(m.containers.unpause("web"), "web is not paused")
        await m.containers.pause("web")
        first = "web is paused, unpause it first"
        await refused(m.containers.exec("web", ExecSpec(("true",))), first)
        await refused(m.containers.attach("web"), first)
        await refused(m.output("web"), first)
        await refused(m.containers.start("web"), first)
        await refused(m.containers.kill("web", "USR1"), first)
        await refused(m.services.files.changes("web"), first)
        await refused(m.containers.pause("web"), "web is already paused")
        with pytest.raises(InUse, match="web is paused"):
            await m.containers.delete("web")
        await m.containers.stop("web", 0.2)
        assert (await m.containers.get("web")).state is ContainerState.EXITED
        await refused(m.containers.pause("web"), "web is not running")
        await m.containers.restart("web")
        await m.containers.pause("web")
        await m.containers.kill("web", "KILL")
        assert (await m.wait("web", Until.EXITED)).exit_code == 137
        await m.containers.start("web")
        await m.containers.pause("web")
        waiting = asyncio.create_task(m.wait("web", Until.EXITED))
        await m.containers.delete("web", force=True)
        assert (await waiting).exit_code == 137
        await check(m.running)


async def test_a_pause_survives_the_manager(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        await create(m)
        await m.containers.pause("web")
        await engines_of(m).pause("ci")
    async with place.manager(unresponsive_after_s=SILENT_S) as m:
        assert await status_of(m, "web") is VmStatus.PAUSED
        assert (await engines_of(m).get("ci")).state is EngineState.PAUSED
        await asyncio.sleep(SILENT_S + 0.5)  # longer than a VM may be silent
        await m.containers.unpause("web")
        await engines_of(m).unpause("ci")
        found = await m.containers.get("web"), await engines_of(m).get("ci")
        assert [one.state for one in found] == ["running", "running"]
        assert [one.error for one in found] == [None, None]
        async with docker(found[1]) as client:
            assert (await client.get("/containers/json")).status_code == 200
        await m.containers.stop("web", 0.2)
        await check(m.running)


async def test_a_paused_vm_that_dies_has_failed(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        await create(m)
        await m.containers.pause("web")
        await engines_of(m).pause("ci")
        place.kill_everything()

        async def failed() -> bool:
            found = await m.containers.get("web"), await engines_of(m).get("ci")
            return all(one.state == "failed" for one in found)

        await eventually(failed, "both are told to have failed")


async def test_who_is_connected_to_a_paused_engine_waits_and_others_are_told(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager(unresponsive_after_s=SILENT_S) as m:
        engine = await create(m)
        async with docker(engine) as client:
            assert (await create_container(client, "db")).status_code == 201
            assert (await client.post("/containers/db/start")).status_code == 204
        async with docker(engine) as waiting, docker(engine) as other:
            url = "/containers/db/wait"
            ended = asyncio.create_task(waiting.post(url))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):  # nothing tells that it waits
                    await asyncio.shield(ended)
            assert (await other.get("/containers/json")).status_code == 200  # the same way, later
            await engines_of(m).pause("ci")
            answer = await other.get("/containers/json")
            assert answer.status_code == 503
            assert "the engine ci is paused; unpause it" in answer.json()["message"]
            for refused_work in (
                engines_of(m).pause("ci"),
                engines_of(m).start("ci"),
                engines_of(m).snapshot("ci", "seeded"),
                engines_of(m).fork("ci", 1),
            ):
                await refused(refused_work, "the engine ci is (already paused|paused, unpause)")
            with pytest.raises(InUse, match="is paused"):
                await engines_of(m).delete("ci")
            assert (await engines_of(m).disk("ci")).used_bytes is None
            assert not ended.done()
            await engines_of(m).unpause("ci")
            await refused(engines_of(m).unpause("ci"), "is not paused")
            assert (await other.post("/containers/db/kill")).status_code == 204
            assert (await ended).json()["StatusCode"] == 137
        assert await told(m, engine.id) == ["paused", "unpaused"]
        await engines_of(m).pause("ci")
        await engines_of(m).stop("ci", 0)
        assert (await engines_of(m).get("ci")).state is EngineState.STOPPED
        await refused(engines_of(m).pause("ci"), "is not running")
        await check(m.running)


async def test_a_vmm_that_hangs_is_told_and_what_was_asked_is_taken_back(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        (record,) = await m.store.vms.list()
        for ask, before in ((m.containers.pause, "running"), (m.containers.unpause, "paused")):
            with monkeypatch.context() as hung:
                hang(hung, "pause", "resume", "status", within_s=0.1)
                with pytest.raises(VmUnresponsive, match="does not answer"):
                    await asyncio.wait_for(ask("web"), 60)
            assert (await m.containers.get("web")).state == before
            assert m.host.vms.pauses.is_paused(record.id) is (before == "paused")
            await ask("web")
        assert (await m.containers.get("web")).state is ContainerState.RUNNING


async def test_a_pause_that_hangs_keeps_nobody_from_removing_it(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        await create(m)
        for noun, name in ((m.containers, "web"), (engines_of(m), "ci")):
            asked = hang(monkeypatch, "pause", within_s=600.0)
            pausing = asyncio.create_task(noun.pause(name))
            await asked.wait()
            await asyncio.wait_for(noun.delete(name, force=True), 60)
            with pytest.raises(NotFound, match="is being removed"):
                await pausing
        await check(m.running)


@pytest.mark.parametrize("ends", ["just before it stands still", "before it is stored to run on"])
async def test_one_that_ends_meanwhile_has_exited(
    place: Lab, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    await prepare(place, snapshot=True)
    give_back, set_clock = WatchContainer._give_ports_back, PauseTenant.set_clock
    set_state, too_early = ContainerRepository.set_state, asyncio.Event()
    wait = WatchContainer._until_not_paused

    async def waits(watch: WatchContainer, container: Container) -> None:
        too_early.set()
        await wait(watch, container)

    async def pause_now(watch: WatchContainer, container: Container) -> None:
        """Its end was seen, and is not stored."""
        monkeypatch.setattr(WatchContainer, "_give_ports_back", give_back)
        await m.containers.pause("web")

    async def when_ended(pauses: PauseTenant, tenant: Tenant, vm_id: str) -> None:
        await set_clock(pauses, tenant, vm_id)
        await asyncio.wait_for(too_early.wait(), 60)

    async def told(*of: Any, **changes: Any) -> Container:
        try:
            return await set_state(*of, **changes)
        except IllegalTransition:
            too_early.set()
            raise

    if ends == "just before it stands still":
        monkeypatch.setattr(ContainerRepository, "set_state", told)
        monkeypatch.setattr(WatchContainer, "_give_ports_back", pause_now)
    else:
        monkeypatch.setattr(WatchContainer, "_until_not_paused", waits)
        monkeypatch.setattr(PauseTenant, "set_clock", when_ended)
    async with place.manager() as m:
        # Long enough for a busy machine to pause it first, where that is what is to happen.
        runs_s = 0 if ends == "just before it stands still" else 4
        await m.run("web", "sh", "-c", f"sleep {runs_s}; exit 7")
        if ends == "just before it stands still":
            await asyncio.wait_for(too_early.wait(), 60)
        else:
            await m.containers.pause("web")
        assert (await m.containers.get("web")).state is ContainerState.PAUSED
        await m.containers.unpause("web")
        assert (await m.containers.wait("web", Until.EXITED, 60)).exit_code == 7
        assert (await m.containers.get("web")).state is ContainerState.EXITED
        await check(m.running)


async def test_a_paused_one_whose_vmm_hangs_is_ended_by_its_user(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        await m.containers.pause("web")
        with monkeypatch.context() as hung:
            hang(hung, "pause", "resume", "status", within_s=0.1)
            await asyncio.wait_for(m.containers.stop("web", 0.1), 60)
        web = await m.containers.get("web")
        assert (web.state, web.exit_code, web.error) == (ContainerState.EXITED, 137, None)
        await m.containers.delete("web")


async def test_a_paused_one_that_does_not_answer_the_next_manager_is_ended_by_its_user(
    place: Lab,
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        for name in ("web", "other"):
            await m.run(name)
            await m.containers.pause(name)
        await create(m)
        await engines_of(m).pause("ci")
    for pid in vmm_pids(place.storage):
        os.kill(pid, signal.SIGSTOP)
    async with place.manager() as m:
        with pytest.raises(VmUnresponsive):
            await m.containers.unpause("web")
        await m.containers.stop("web", 0.1)
        await m.containers.kill("other", "KILL")
        await engines_of(m).stop("ci", 0)
        for name in ("web", "other"):
            found = await m.containers.get(name)
            assert (found.state, found.exit_code, found.error) == ("exited", 137, None)
        assert (await engines_of(m).get("ci")).state is EngineState.STOPPED
        assert vmm_pids(place.storage) == []
        await check(m.running)


async def test_one_whose_freeze_was_broken_off_goes_on_with_its_disk_in_place(place: Lab) -> None:
    """As an earlier manager has left it, whose journal says nothing of it any more."""
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        (record,) = await m.store.vms.list()
        disk = next(one.path for one in record.spec.disks if not one.read_only)
        await m.host.vms._machine(record.id).vm.pause()
        overlay = disk.with_name(f"{disk.name}{UNFINISHED}")
        shutil.copy(disk, overlay)
        written_to = overlay.stat().st_ino
    async with place.manager() as m:
        assert await status_of(m, "web") is VmStatus.RUNNING
        assert disk.stat().st_ino == written_to
        assert not overlay.exists()
        await m.containers.delete("web", force=True)
        await check(m.running)
