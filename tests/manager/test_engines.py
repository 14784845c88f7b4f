"""Engines on the simulated hypervisor, through the sockets that the front serves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.support.engines import create, create_container, docker, engines_of, gone
from tests.support.managers import TIMEOUT_S, Lab, Manager, eventually, front_pids, vmm_pids

from warmboot.host.vms import Vms
from warmboot.manager.protocols import EngineUntil
from warmboot.model.errors import (
    Conflict,
    GuestError,
    HostError,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
)
from warmboot.model.journal.operation import OperationState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState, ProcessIdentity
from warmboot.store.repositories.operations import OperationRepository


async def containers_in(engine: Engine) -> list[Any]:
    async with docker(engine) as client:
        found: list[Any] = (await client.get("/containers/json?all=1")).json()
        return found


async def test_an_engine_boots_warm_and_its_docker_is_at_its_socket(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        engine = await create(m, labels={"for": "test"})
        assert (engine.state, engine.boot_method) == (EngineState.RUNNING, BootMethod.WARM)
        assert engine.stages[-1].name == "socket"
        assert oct(Path(engine.socket).stat().st_mode & 0o777) == "0o660"
        async with docker(engine) as client:
            assert (await client.get("/_ping")).text == "OK"
            assert (await client.get("/images/json")).json() == []
        engine = await engines_of(m).get("ci")
        assert (engine.handed_over, engine.stages[-1].name) == (True, "hand-over")
        kinds = [event.kind for event in await m.events_of(engine.id)]
        assert kinds == ["engine.creating", "engine.booted", "engine.running", "engine.stage"]
        await engines_of(m).delete("ci", force=True)
        assert not Path(engine.socket).exists()
        assert vmm_pids(place.storage) == []


async def test_a_new_engine_is_empty(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        engine = await create(m)
        assert await containers_in(engine) == []
        async with docker(engine) as client:
            assert (await client.get("/images/json")).json() == []


async def test_one_that_no_snapshot_serves_boots_cold_and_says_why(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        assert engine.boot_method is BootMethod.COLD
        assert engine.fallback_reason is FallbackReason.NO_SNAPSHOT
        asked = await create(m, "asked", boot=BootPolicy.COLD)
        assert asked.fallback_reason is FallbackReason.REQUESTED


async def test_a_prepared_vm_serves_an_engine_too(place: Lab) -> None:
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as m:
        await m.snapshot()

        async def prepared() -> bool:
            return (await m.services.system.info()).warm_pool.ready == 1

        # It is prepared at a low priority: on a busy machine at the second try.
        await eventually(prepared, "a VM is prepared", 4 * TIMEOUT_S)
        engine = await create(m)
        assert engine.boot_method is BootMethod.WARM
        assert await containers_in(engine) == []


async def test_what_cannot_be_is_refused(place: Lab) -> None:
    async with place.manager() as m:
        await create(m)
        with pytest.raises(NameTaken):
            await create(m)
        with pytest.raises(InvalidRequest, match="not available on this host"):
            await create(m, "large", shape=Shape(1, 65_536))
        with pytest.raises(InUse):
            await engines_of(m).delete("ci")
        with pytest.raises(NotFound):
            await engines_of(m).get("other")


async def test_who_connects_early_is_answered_when_it_runs(place: Lab) -> None:
    async with place.manager() as m:
        await m.image()
        place.set(boot_s=0.5)
        engine_id = await engines_of(m).create(EngineSpec("ci", os.geteuid()))
        engine = await engines_of(m).get(str(engine_id))
        await m.until(lambda: asyncio.to_thread(Path(engine.socket).exists), "its socket is there")
        assert await containers_in(engine) == []


async def test_a_client_is_answered_before_the_boot_is_journaled(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    journaling, journaled = asyncio.Event(), asyncio.Event()
    set_state = OperationRepository.set_state

    async def slowly(self: OperationRepository, *given: Any, **named: Any) -> None:
        journaling.set()
        await journaled.wait()
        await set_state(self, *given, **named)

    async with place.manager() as m:
        await m.snapshot()
        monkeypatch.setattr(OperationRepository, "set_state", slowly)
        engine_id = str(await engines_of(m).create(EngineSpec("ci", os.geteuid())))
        engine = await engines_of(m).get(engine_id)
        await m.until(lambda: asyncio.to_thread(Path(engine.socket).exists), "its socket is there")
        async with docker(engine) as client:
            assert (await client.get("/_ping")).text == "OK"
            assert (await engines_of(m).get(engine_id)).state is EngineState.CREATING
            journaled.set()
            await engines_of(m).wait(engine_id, EngineUntil.RUNNING, TIMEOUT_S)
        assert journaling.is_set()


async def test_a_vm_of_which_nothing_comes_is_not_led_to(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Docker has answered, but the boot cannot be journaled: the next VM is waited for."""
    set_state, failed = OperationRepository.set_state, asyncio.Event()

    async def once(
        self: OperationRepository, of: UUID, new: OperationState, error: Any = None
    ) -> None:
        if new is OperationState.DONE and not failed.is_set():
            failed.set()
            raise HostError("made to fail")
        await set_state(self, of, new, error)

    async with place.manager() as m:
        await m.snapshot()
        monkeypatch.setattr(OperationRepository, "set_state", once)
        engine_id = str(await engines_of(m).create(EngineSpec("ci", os.geteuid())))
        engine = await engines_of(m).wait(engine_id, EngineUntil.RUNNING, TIMEOUT_S)
        assert failed.is_set()
        assert (engine.state, engine.boot_method) == (EngineState.RUNNING, BootMethod.COLD)
        assert await containers_in(engine) == []
        assert len(vmm_pids(place.storage)) == 1


async def test_a_stopped_one_says_so_and_keeps_its_disk(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        await engines_of(m).stop("ci")
        assert (await engines_of(m).get("ci")).state is EngineState.STOPPED
        assert vmm_pids(place.storage) == []
        async with docker(engine) as client:
            answer = await client.get("/_ping")
            assert answer.status_code == 503
            assert "warmboot engine start ci" in answer.json()["message"]
        await engines_of(m).stop("ci")
        await engines_of(m).start("ci")
        again = await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert again.state is EngineState.RUNNING
        assert again.fallback_reason is FallbackReason.KEEPS_DISK
        assert await containers_in(again) == []


async def test_a_stop_notes_what_is_to_run_again(place: Lab) -> None:
    policies = {"goes-on": "unless-stopped", "stopped": "unless-stopped", "once": "no"}
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            for name, policy in policies.items():
                await create_container(client, name, RestartPolicy={"Name": policy})
                assert (await client.post(f"/containers/{name}/start")).status_code == 204
            await client.post("/containers/stopped/stop", params={"t": 0})
        ids = {one["Names"][0]: one["Id"] for one in await containers_in(engine)}
        await engines_of(m).stop("ci", 0)
        assert (await engines_of(m).get("ci")).restarts == (ids["/goes-on"],)
        # A simulated disk has no containers: one that is not there any more harms nobody.
        await engines_of(m).start("ci")
        again = await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert await containers_in(again) == []
        assert (await engines_of(m).get("ci")).restarts == ()


async def test_one_whose_vm_dies_fails_and_can_be_started(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        (pid,) = vmm_pids(place.storage)
        os.kill(pid, signal.SIGKILL)

        async def failed() -> bool:
            return (await engines_of(m).get("ci")).state is EngineState.FAILED

        await m.until(failed)

        async def told() -> bool:
            async with docker(engine) as client:
                answer = await client.get("/_ping")
                return "has failed" in answer.json()["message"]

        await m.until(told)
        await engines_of(m).start("ci")
        again = await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert again.state is EngineState.RUNNING


async def test_one_that_has_run_and_cannot_be_handed_over_keeps_its_disk(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        raise GuestError("the guest agent refused hand-over")

    async with place.manager() as m:
        with monkeypatch.context() as until_then:
            until_then.setattr(Vms, "hand_over", refused)
            await create(m)
            failed = await engines_of(m).wait("ci", EngineUntil.STOPPED, TIMEOUT_S)
        assert (failed.state, failed.error and failed.error["brief"]) == (
            EngineState.FAILED,
            "the guest agent refused hand-over",
        )
        (folder,) = (place.storage / "vms").iterdir()
        await engines_of(m).start("ci")
        again = await engines_of(m).wait("ci", EngineUntil.RUNNING, TIMEOUT_S)
        assert (again.state, again.vm_id) == (EngineState.RUNNING, folder.name)
        assert again.fallback_reason is FallbackReason.KEEPS_DISK


async def test_one_that_does_not_come_up_says_why(place: Lab) -> None:
    async with place.manager() as m:
        await m.image()
        place.set(fail_boot=True)
        engine = await create(m)
        assert engine.state is EngineState.FAILED
        assert engine.error is not None
        async with docker(engine) as client:
            answer = await client.get("/_ping")
            assert answer.status_code == 503
            assert json.loads(answer.content)["message"]


async def test_what_is_to_go_by_itself_goes(place: Lab) -> None:
    async with place.manager() as m:
        stopped = await create(m, "stopped", auto_remove=True)
        await engines_of(m).stop("stopped")
        await m.until(lambda: gone(m, stopped))
        short = await create(m, "short", time_to_live_s=0.3)
        await m.until(lambda: gone(m, short))
        assert vmm_pids(place.storage) == []
        assert not Path(short.socket).exists()


async def test_one_goes_with_the_process_that_holds_it(place: Lab) -> None:
    async with place.manager() as m:
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        holder = ProcessIdentity(process.pid, int(fields[19]))
        engine = await create(m, holder=holder)
        assert engine.state is EngineState.RUNNING
    async with place.manager() as m:
        assert not await gone(m, engine)
        process.kill()
        await process.wait()
        await m.until(lambda: gone(m, engine))
        with pytest.raises(NotFound, match="no process"):
            await create(m, "late", holder=holder)


async def test_a_restart_of_the_manager_interrupts_nobody(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        (front,) = front_pids(place.storage)
    async with docker(engine) as client:
        assert (await client.get("/_ping")).status_code == 200, "while there is no manager"
        async with place.manager() as m:
            assert (await client.get("/_ping")).status_code == 200
            found = await engines_of(m).get("ci")
            assert (found.state, found.vm_id) == (EngineState.RUNNING, engine.vm_id)
            assert front_pids(place.storage) == [front]
            await engines_of(m).delete("ci", force=True)


async def test_a_vm_that_died_meanwhile_is_told_by_the_front_and_then_by_the_manager(
    place: Lab,
) -> None:
    async with place.manager():
        pass
    async with place.manager() as m:
        engine = await create(m)
    (pid,) = vmm_pids(place.storage)
    os.kill(pid, signal.SIGKILL)

    async def refused() -> bool:
        async with docker(engine) as client:
            return (await client.get("/_ping")).status_code == 503

    await eventually(refused)
    async with place.manager() as m:
        assert (await engines_of(m).get("ci")).state is EngineState.FAILED


async def test_a_removal_ends_what_is_being_created(place: Lab) -> None:
    async with place.manager() as m:
        await m.image()
        place.set(boot_s=30)
        engine_id = await engines_of(m).create(EngineSpec("ci", os.geteuid()))
        with pytest.raises(Conflict):
            await engines_of(m).stop("ci")
        await engines_of(m).delete("ci", force=True)
        assert await gone(m, await _as_removed(engine_id, m))
        assert vmm_pids(place.storage) == []


async def _as_removed(engine_id: Any, m: Manager) -> Engine:
    return await engines_of(m).wait(str(engine_id), EngineUntil.RUNNING, 1)
