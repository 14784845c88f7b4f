"""At the start every row is settled by itself: what cannot be is told, and the manager serves."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.support.managers import Lab, Manager

from warmboot.host.vms import Vms
from warmboot.manager.protocols import Until
from warmboot.manager.reconcile import FORMER_SAGAS
from warmboot.manager.tenants.resume_stalled import ResumeStalled
from warmboot.manager.workers.stop_workers import StopWorkers
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import NetworkError
from warmboot.model.journal.operation import OperationState


async def unsettled(manager: Manager) -> list[str]:
    checks = await manager.services.system.doctor()
    return [f"{check.summary} {check.why}" for check in checks if check.name == "unsettled"]


async def test_a_journal_entry_of_another_version_is_left_and_told(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run()
        await manager.store.operations.begin("teleport-container", "thing", {"to": "mars"})
    async with place.manager() as manager:
        assert (await manager.containers.get("web")).state is ContainerState.RUNNING
        assert await manager.output("web") == b""
        (told,) = await unsettled(manager)
        assert "teleport-container" in told
        (left,) = await manager.store.operations.list()
        assert left.state is OperationState.RUNNING
        await manager.containers.delete("web", force=True)


@pytest.mark.parametrize("undoing", [False, True])
async def test_what_an_earlier_release_journaled_and_we_do_not_is_closed(
    place: Lab, undoing: bool
) -> None:
    async with place.manager() as manager:
        operations = manager.store.operations
        for kind in FORMER_SAGAS:
            subject = "garbage" if kind == "collect-garbage" else str(uuid4())
            begun = await operations.begin(kind, subject, {"folder": "/x", "name": "before"})
            await operations.note_step(begun.id, "dump", {"docker_id": "c0ffee"})
            if undoing:
                await operations.set_state(begun.id, OperationState.UNDOING)
    async with place.manager() as manager:
        assert await unsettled(manager) == []
        assert await manager.store.operations.list() == ()


@pytest.mark.parametrize("error", [KeyError("slot"), OSError(5, "Input/output error")])
async def test_one_container_that_cannot_be_settled_keeps_no_other_from_it(
    place: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with place.manager() as manager:
        for name in ("one", "two", "three"):
            await manager.run(name)
    adopt = ResumeStalled.adopt

    async def fails_for_two(self: ResumeStalled, container: Container, vm_id: str) -> None:
        if container.name == "two":
            raise error
        await adopt(self, container, vm_id)

    monkeypatch.setattr(ResumeStalled, "adopt", fails_for_two)
    async with place.manager() as manager:
        two = await manager.containers.get("two")
        assert two.state is ContainerState.RUNNING
        assert two.error is not None
        assert "container.unsettled" in [e.kind for e in await manager.events_of(two.id)]
        (told,) = await unsettled(manager)
        assert told.startswith("container two: ")
        for name in ("one", "three"):
            await manager.containers.kill(name, "SIGKILL")
            assert (await manager.wait(name, Until.EXITED)).exit_code == 137
        for name in ("one", "two", "three"):
            await manager.containers.delete(name, force=True)
        assert await unsettled(manager) == []


async def test_a_container_whose_network_cannot_be_had_again_is_marked_and_watched(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as manager:
        await manager.run()

    async def gone(*_: object) -> None:
        raise NetworkError("the namespace wb-1 is gone", resolution="start it again")

    republish = Vms.republish
    monkeypatch.setattr(Vms, "republish", gone)
    async with place.manager() as manager:
        web = await manager.containers.get("web")
        assert web.error is not None
        assert web.error["code"] == "network-error"
        (told,) = await unsettled(manager)
        assert "the namespace wb-1 is gone" in told
        await manager.containers.kill("web", "SIGKILL")
        assert (await manager.wait("web", Until.EXITED)).exit_code == 137
        await manager.containers.start("web")
    monkeypatch.setattr(Vms, "republish", republish)
    async with place.manager() as manager:
        assert (await manager.containers.get("web")).error is None
        await manager.containers.delete("web", force=True)


async def test_what_is_nobodys_and_cannot_be_removed_is_told(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as manager:
        container = await manager.run()
        await manager.store.containers.set_state(container.id, ContainerState.DELETING)
        await manager.store.containers.remove(container.id)
        destroy = Vms.destroy

        async def stubborn(self: Vms, *args: object, **options: object) -> None:
            raise NetworkError("cannot delete the link")

        monkeypatch.setattr(Vms, "destroy", stubborn)
    async with place.manager() as manager:
        (told,) = await unsettled(manager)
        assert "which is nobody's: cannot delete the link" in told
        monkeypatch.setattr(Vms, "destroy", destroy)
    async with place.manager() as manager:
        assert await unsettled(manager) == []
        assert await manager.store.vms.list() == ()


async def test_workers_that_cannot_be_settled_do_not_keep_it_from_serving(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(StopWorkers, "start", broken)
    async with place.manager() as manager:
        (told,) = await unsettled(manager)
        assert "workers that were paused at the stop" in told
