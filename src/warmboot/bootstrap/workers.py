"""The wiring of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from warmboot.bootstrap.core import Core
from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.kerndat.cache import keep_kerndat
from warmboot.criu.runtime.cold import ColdCheckpoints
from warmboot.criu.runtime.places import CheckpointPlaces
from warmboot.criu.runtime.stored import StoredCheckpoints
from warmboot.criu.setup.findings import Change, Finding
from warmboot.criu.setup.preflight import Preflight
from warmboot.criu.setup.verification import Verified, verify
from warmboot.docker.engine import DockerEngine
from warmboot.manager.check_storage_owner import STORE_ID
from warmboot.manager.core.worker_tokens import WorkerTokens
from warmboot.manager.garbage.checkpoint_garbage import CheckpointGarbage, CheckpointsInUse
from warmboot.manager.garbage.compress_checkpoints import CompressCheckpoints
from warmboot.manager.protocols import Check
from warmboot.manager.workers.create_worker import CreateWorker
from warmboot.manager.workers.pause_worker import PauseWorker
from warmboot.manager.workers.policies.restart_policies import RestartPolicies
from warmboot.manager.workers.reconcile_workers import ReconcileWorkers
from warmboot.manager.workers.recover_worker import RecoverWorker
from warmboot.manager.workers.resume_worker import ResumeWorker
from warmboot.manager.workers.socket_activation import WorkerActivation
from warmboot.manager.workers.stop_workers import StopWorkers
from warmboot.manager.workers.watch_worker import WatchWorker
from warmboot.manager.workers.worker_checkpoints import WorkerCheckpoints
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.manager.workers.workers import Workers
from warmboot.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """``reconcile`` at the start, ``stop`` at the end."""

    workers: Workers
    reconcile: ReconcileWorkers
    wake: WorkerActivation
    tokens: WorkerTokens
    stops: StopWorkers
    garbage: CheckpointGarbage
    compress: CompressCheckpoints

    async def stop(self) -> None:
        """Pause those whose policy says so, finish what is under way, give back ports."""
        await self.stops.stop()
        await self.wake.stop()


def docker_socket(settings: Settings) -> Path:
    return Path(settings.docker_host.removeprefix("unix://"))


def _criu_path(settings: Settings) -> str:
    return f"{settings.criu_wrapper.parent}:{SEARCH_PATH}"


@asynccontextmanager
async def wire_workers(core: Core) -> AsyncIterator[WorkerParts]:
    """Everything about workers. The engine is not asked for anything yet: there may be none."""
    settings, store, events, tasks = core.settings, core.store, core.events, core.tasks
    tokens = await WorkerTokens.of(store)

    def environment(worker_id: UUID) -> dict[str, str]:
        return {
            "WARMBOOT_URL": settings.url_for_workers,
            "WARMBOOT_WORKER_ID": str(worker_id),
            "WARMBOOT_TOKEN": tokens.issue(worker_id),
        }

    async with DockerEngine(docker_socket(settings)) as engine:
        states = WorkerStates(store, events)
        limit_s = settings.worker_pause_timeout_s
        stored = await _stored(core)
        places = CheckpointPlaces(settings.checkpoint_folders, _criu_path(settings), stored)
        cold, in_use = ColdCheckpoints(), CheckpointsInUse()
        hours = settings.compress_after_h
        compress_after = timedelta(hours=hours) if hours else None
        budget_bytes = settings.checkpoint_budget_mib << 20
        garbage = CheckpointGarbage(store, events, stored, in_use, budget_bytes)
        recover = RecoverWorker(store, engine, states, tasks, places, limit_s)
        create = CreateWorker(store, engine, states, environment)
        restarts = RestartPolicies(store, engine, tasks)
        pause = PauseWorker(store, engine, events, states, recover, places, restarts, limit_s)
        resume = ResumeWorker(store, engine, events, states, recover, places, cold, limit_s)
        checkpoints = WorkerCheckpoints(
            store,
            engine,
            events,
            states,
            places,
            core.uploads,
            cold,
            in_use,
            garbage,
        )
        workers = Workers(
            store, engine, events, tasks, states, create, pause, resume, recover, checkpoints
        )
        watch = WatchWorker(
            store, engine, tasks, recover, workers.pause_by_policy, workers.checkpoint_by_policy
        )
        wake = WorkerActivation(events, workers.wake_by_connection)
        stops = StopWorkers(store, tasks, workers)
        states.follow(wake.follow)
        states.follow(watch.follow)
        states.follow(restarts.follow)
        tasks.start("kerndat", keep_kerndat(_criu_path(settings)))
        yield WorkerParts(
            workers,
            ReconcileWorkers(store, states, recover, workers, stops, core.reconcile_failures),
            wake,
            tokens,
            stops,
            garbage,
            CompressCheckpoints(store, events, cold, compress_after),
        )


async def _stored(core: Core) -> StoredCheckpoints:
    """Other managers' checkpoints may lie in a folder outside of the storage root, too."""
    root = core.settings.checkpoint_folders
    is_ours = root.is_relative_to(core.settings.storage_root.absolute())
    return StoredCheckpoints(root, await core.store.meta.get(STORE_ID) or "", is_ours)


async def preflight(settings: Settings) -> Preflight:
    return await Preflight.of_engine(docker_socket(settings), settings.criu_wrapper)


async def worker_checks(settings: Settings) -> Sequence[Check]:
    """The prerequisites of workers, for ``warmboot doctor``. A machine without is fine too."""
    return [_check(finding) for finding in await (await preflight(settings)).check()]


def _check(finding: Finding) -> Check:
    return Check(
        name=f"workers: {finding.name}",
        ok=finding.ok,
        summary=(finding.note or "as it should be") if finding.ok else finding.problem,
        why=finding.why,
        remedy=finding.remedy,
        required=False,
    )


async def fix_workers(settings: Settings, *, restart_engine: bool) -> Sequence[Change]:
    """Do what ``warmboot doctor --fix`` can do for workers; nothing the second time."""
    return await (await preflight(settings)).fix(restart_engine=restart_engine)


async def remove_runtime(settings: Settings) -> Sequence[Change]:
    """Remove the runtime of workers; ``InUse`` while the engine has a container on it."""
    return await (await preflight(settings)).remove_runtime()


async def verify_workers(settings: Settings) -> Verified:
    """Checkpoint and restore a real container; raises what is in the way."""
    async with DockerEngine(docker_socket(settings)) as engine:
        return await verify(engine, _criu_path(settings))
