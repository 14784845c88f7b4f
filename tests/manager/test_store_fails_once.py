"""Background work ends by cancellation only: each is tried with a store that fails once.

The database refuses one call, the first, second or third, of the tasks that do one kind of work;
afterwards that work must go on, or have come to its end. A new kind of ``Work`` needs a scene here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.manager.test_stalled import told
from tests.support.absent import ABSENT
from tests.support.engines import create, gone
from tests.support.failing_store import FailingStore
from tests.support.managers import Lab, Manager, eventually, lab
from typing_extensions import override

from warmboot.criu import in_progress
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts, EngineFacts
from warmboot.host.vm import live_vm
from warmboot.hypervisors import process
from warmboot.hypervisors.process import start_time_ticks
from warmboot.manager import housekeeping
from warmboot.manager.containers.containers import Containers
from warmboot.manager.core import background, retry_until_stored
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.garbage import expire_records
from warmboot.manager.protocols import Until
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.tenants import park_by_policy
from warmboot.manager.vms import warm_pool as warm_pool_
from warmboot.manager.workers.create_worker import CreateWorker
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.manager.workers.stop_workers import StopWorkers
from warmboot.manager.workers.watch_worker import WatchWorker
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.manager.workers.workers import Workers
from warmboot.model.container import ContainerState
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.tenants.engine import ProcessIdentity
from warmboot.model.worker import Worker, WorkerPolicy, WorkerSpec, WorkerState


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (background, retry_until_stored):
        monkeypatch.setattr(part, "FIRST_PAUSE_S", 0.01)
        monkeypatch.setattr(part, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(warm_pool_, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(park_by_policy, "LONGEST_LOOK_S", 0.05)
    monkeypatch.setattr(process, "_give_way", lambda _: None)
    monkeypatch.setattr(live_vm, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(in_progress, "QUIET_S", 0.0)
    monkeypatch.setattr(expire_records, "EVERY_S", 0.05)
    monkeypatch.setattr(housekeeping, "_LONGEST_S", 0.05)


@pytest.fixture
async def place() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


# -- work on VMs -----------------------------------------------------------------------------------

Scene = Callable[[Manager, FailingStore], Awaitable[None]]


async def rounds(manager: Manager, store: FailingStore) -> None:
    """It goes on for ever: another round comes."""
    await eventually(store.asked_again, "the next round")


async def reconcile_snapshots_(manager: Manager, store: FailingStore) -> None:
    snapshot = await manager.snapshot()
    await manager.store.snapshots.set_state(snapshot.id, SnapshotState.UNHEALTHY)

    assert isinstance(manager.snapshots, RuntimeSnapshots)
    look_now = manager.snapshots._on_built

    async def rebuilt() -> bool:
        look_now()  # it looks at once, not in half a minute
        return any(s.replaces == snapshot.id for s in await manager.store.snapshots.list())

    await eventually(rebuilt, "what is unhealthy is rebuilt")


async def warm_pool(manager: Manager, store: FailingStore) -> None:
    await manager.snapshot()

    async def filled() -> bool:
        return (await manager.services.system.info()).warm_pool.ready == 1

    await eventually(filled, "a VM is in the pool")


async def wake_at_start(manager: Manager, store: FailingStore) -> None:
    await manager.run("web", "sleep", "100", park_at_shutdown=True)
    assert isinstance(manager.containers, Containers)
    by_policy = manager.containers.by_policy
    await by_policy.stop()
    assert (await manager.containers.get("web")).state is ContainerState.PARKED
    await by_policy.start()
    await manager.wait("web", Until.RUNNING)


async def bring_up(manager: Manager, store: FailingStore) -> None:
    container_id = await manager.create()
    container = await manager.wait(str(container_id), Until.RUNNING)
    assert container.state in (ContainerState.RUNNING, ContainerState.FAILED)

    async def is_told() -> bool:  # a moment after the state
        kinds = {event.kind for event in await manager.events_of(container_id)}
        return bool(kinds & {"container.running", "container.failed"})

    await eventually(is_told, "how it went is told")


async def an_exit(manager: Manager, store: FailingStore) -> None:
    container = await manager.run("web", "sh", "-c", "sleep 0.1; exit 3")
    ended = await manager.wait(str(container.id), Until.EXITED)
    assert ended.exit_code == 3
    await told(manager, container, "container.exited")


async def an_engine_whose_holder_ends(manager: Manager, store: FailingStore) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    ticks = start_time_ticks(process.pid)
    assert ticks is not None
    engine = await create(manager, holder=ProcessIdentity(process.pid, ticks))
    process.kill()
    await process.wait()
    await manager.until(lambda: gone(manager, engine), "it goes with its holder")


async def a_stall(manager: Manager, store: FailingStore) -> None:
    container = await manager.run()
    manager.lab.set(disk_full="always")
    writing = asyncio.ensure_future(manager.containers.restart("web", 0.1))
    await eventually(_stands_still(manager), "it stands still")
    manager.lab.set(disk_full="never")
    await told(manager, container, "container.resumed")
    kinds = [event.kind for event in await manager.events_of(container.id)]
    assert kinds.index("container.stalled") < kinds.index("container.resumed")
    assert (await manager.containers.get("web")).error is None
    await asyncio.wait({writing})


async def a_silence(manager: Manager, store: FailingStore) -> None:
    container = await manager.run()
    pid = await manager.vm_pid("web")
    os.kill(pid, signal.SIGSTOP)
    await told(manager, container, "container.unresponsive")
    os.kill(pid, signal.SIGCONT)
    await told(manager, container, "container.answering")

    async def cleared() -> bool:  # on a busy machine it may be late once more
        return (await manager.containers.get("web")).error is None

    await eventually(cleared, "it answers")


def _stands_still(manager: Manager) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return manager.host.vms.stalled == 1

    return look


async def build(manager: Manager, store: FailingStore) -> None:
    image = await manager.image()
    snapshot_id = await manager.snapshots.create(image.id, None)
    await manager.snapshot_until(snapshot_id, SnapshotState.READY, SnapshotState.UNHEALTHY)

    async def heard() -> bool:
        kinds = {event.kind for event in await manager.events_of(snapshot_id)}
        return bool(kinds & {"runtime-snapshot.ready", "runtime-snapshot.failed"})

    await eventually(heard, "it is told")


# -- work on workers -------------------------------------------------------------------------------


class Engine(DockerEngine):
    """A Docker engine that has one container, which may end."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent/docker.sock"))
        self.ended = asyncio.Event()

    @override
    async def wait_stopped(self, container: str, timeout_s: float | None = None) -> int:
        await self.ended.wait()
        return 3

    @override
    async def facts(self) -> EngineFacts:
        return EngineFacts.of({}, {"DockerRootDir": "/nonexistent"})

    @override
    async def inspect(self, container: str) -> ContainerFacts:
        running = not self.ended.is_set()
        return ContainerFacts(
            id=container,
            name="w1",
            status="running" if running else "exited",
            running=running,
            pid=0,
            exit_code=3,
            image="app:1",
            image_digest="",
            network="host",
            tty=False,
            auto_remove=False,
            started_at="",
        )


class Create(CreateWorker):
    """Has the container at once."""

    def __init__(self, states: WorkerStates) -> None:
        super().__init__(ABSENT, ABSENT, states, ABSENT)

    @override
    async def __call__(self, worker: Worker) -> None:
        await self._states.enter(worker.id, WorkerState.RUNNING, docker_id="d")


class Shop:
    """The parts that keep an eye on workers, on a manager's store."""

    def __init__(self, manager: Manager, tasks: Tasks) -> None:
        self.store = manager.store
        self.tasks = tasks
        assert isinstance(manager.services.events, EventLog)
        self.events = manager.services.events
        self.engine = Engine()
        self.states = WorkerStates(self.store, self.events)
        self.settle = RecoverWorker(self.store, self.engine, self.states, tasks, ABSENT)
        self.checkpointed = 0
        self.watch = WatchWorker(
            self.store, self.engine, tasks, self.settle, self._checkpoint, self._checkpoint
        )
        self.workers = Workers(
            *(self.store, self.engine, self.events, tasks, self.states),
            *(Create(self.states), ABSENT, ABSENT, self.settle, ABSENT),
        )

    async def worker(self, state: WorkerState, **policy: Any) -> Worker:
        worker = Worker(
            id=uuid4(),
            spec=WorkerSpec("w1", "app:1", policy=WorkerPolicy(**policy)),
            state=WorkerState.CREATING,
            created_at=datetime.now(UTC),
        )
        await self.store.workers.add(worker)
        if state is not WorkerState.CREATING:
            await self.store.workers.set_state(worker.id, WorkerState.RUNNING, docker_id="d")
        if state not in (WorkerState.CREATING, WorkerState.RUNNING):
            await self.store.workers.set_state(worker.id, WorkerState.PAUSING)
        if state is WorkerState.PAUSED:
            await self.store.workers.set_state(worker.id, state, resume_at_start=True)
        return await self.store.workers.get(worker.id)

    async def until(self, worker: Worker, state: WorkerState) -> None:
        async def look() -> bool:
            return (await self.store.workers.get(worker.id)).state is state

        await eventually(look, f"it is {state}")

    async def _checkpoint(self, worker: Worker) -> None:
        self.checkpointed += 1


async def create_worker(shop: Shop) -> None:
    worker = await shop.worker(WorkerState.CREATING)
    shop.workers.begin(worker)
    await shop.until(worker, WorkerState.RUNNING)


async def watch_worker(shop: Shop) -> None:
    worker = await shop.worker(WorkerState.RUNNING)
    await shop.watch.follow(worker)
    shop.engine.ended.set()
    await shop.until(worker, WorkerState.EXITED)


async def keep_policy(shop: Shop) -> None:
    worker = await shop.worker(WorkerState.RUNNING, checkpoint_every_s=1)
    # A second is the shortest that users may ask for.
    object.__setattr__(worker.spec.policy, "checkpoint_every_s", 0.02)
    await shop.watch.follow(worker)

    async def kept() -> bool:
        return shop.checkpointed >= 4

    await eventually(kept, "checkpoints are made")


async def settle_worker(shop: Shop) -> None:
    worker = await shop.worker(WorkerState.PAUSING)
    shop.settle.later(worker.id)
    await shop.until(worker, WorkerState.RUNNING)


class Waking(Workers):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    @override
    async def wake(self, ref: str) -> Worker:
        await self._shop.store.workers.find(ref)
        await self._shop.states.enter(UUID(ref), WorkerState.RESUMING)
        return await self._shop.states.enter(UUID(ref), WorkerState.RUNNING)


async def resume_worker(shop: Shop) -> None:
    worker = await shop.worker(WorkerState.PAUSED)
    await StopWorkers(shop.store, shop.tasks, Waking(shop)).start()
    await shop.until(worker, WorkerState.RUNNING)


ON_VMS: dict[Work, tuple[str, Scene, dict[str, Any]]] = {
    Work.HOUSEKEEPING: ("housekeeping", rounds, {}),
    Work.RECONCILE_SNAPSHOTS: (
        "look-after-snapshots",
        reconcile_snapshots_,
        {"rebuild_pause_s": 0.05},
    ),
    Work.WARM_POOL: ("warm-pool", warm_pool, {"pool_min_vms": 1, "pool_max_vms": 1}),
    Work.EXPIRE_RECORDS: ("forget-old", rounds, {}),
    Work.PUT_AWAY_EXITED: ("put-away-exited", rounds, {"park_exited_after_s": 0.2}),
    Work.PARK_IDLE: ("park-idle", rounds, {}),
    Work.WAKE_AT_START: ("wake-at-start", wake_at_start, {}),
    Work.BRING_UP: ("bring-up", bring_up, {}),
    Work.WATCH_CONTAINERS: ("watch ", an_exit, {}),
    Work.WATCH_ENGINES: ("holder ", an_engine_whose_holder_ends, {}),
    Work.RESUME_STALLED: ("stalled", a_stall, {}),
    Work.KEEP_UNRESPONSIVE: ("silence", a_silence, {"unresponsive_after_s": 0.3}),
    Work.BUILD_SNAPSHOTS: ("build ", build, {}),
}
ON_WORKERS: dict[Work, tuple[str, Callable[[Shop], Awaitable[None]]]] = {
    Work.CREATE_WORKERS: ("create-worker", create_worker),
    Work.WATCH_WORKERS: ("worker-end", watch_worker),
    Work.WORKER_POLICIES: ("worker-policy", keep_policy),
    Work.RECOVER_WORKERS: ("settle-worker", settle_worker),
    Work.RESUME_WORKERS: ("resume-at-start", resume_worker),
}


def test_every_work_has_its_scene() -> None:
    # Simulated VMs have no networks: tests/unit/test_report_repairs.py has that scene.
    assert ON_VMS.keys() | ON_WORKERS.keys() | {Work.NETWORK_RULES} == set(Work)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("work", ON_VMS)
async def test_work_on_vms_goes_on(
    place: Lab, work: Work, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, scene, settings = ON_VMS[work]
    store = FailingStore(monkeypatch, key, number)
    async with place.manager(**settings) as manager:
        await scene(manager, store)
        assert store.refused or store.calls < number
        assert store.calls
        for container in await manager.containers.list(all_states=True):
            await manager.containers.delete(str(container.id), force=True)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("work", ON_WORKERS)
async def test_work_on_workers_goes_on(
    place: Lab, work: Work, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, scene = ON_WORKERS[work]
    store, tasks = FailingStore(monkeypatch, key, number), Tasks()
    async with place.manager() as manager:
        try:
            await scene(Shop(manager, tasks))
            assert store.refused or store.calls < number
            assert store.calls
        finally:
            await tasks.stop()
