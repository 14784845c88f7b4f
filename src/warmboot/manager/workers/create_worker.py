"""Create a worker's container and start it.

image there, or pulled ─▶ container ─▶ started ─▶ record
                             │ error
                             ▼
                   whatever has its label is removed

After ``kill -9`` the next manager begins anew, which removes it first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.manager.workers.recover_worker import LABEL, remove_containers
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.checkpoint import (
    DOCKERS_NETWORKS,
    Obstacle,
    driver_obstacles,
    obstacles,
    runtime_obstacles,
)
from warmboot.model.errors import (
    ImageNotFound,
    InvalidRequest,
    NotFound,
    NotSupported,
    WarmbootError,
)
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

Environment = Callable[[UUID], dict[str, str]]


class CreateWorker:
    """``environment`` is what the manager adds for a worker: where it is, and who that is."""

    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        states: WorkerStates,
        environment: Environment,
    ) -> None:
        self._store = store
        self._engine = engine
        self._states = states
        self._environment = environment

    async def check(self, spec: WorkerSpec) -> None:
        """Refuse what could never be resumed, or not even started. ``EngineUnavailable``."""
        facts = await self._engine.facts()
        refuse_spec(facts, spec)
        if facts.worker_runtime and spec.network not in DOCKERS_NETWORKS:
            await self._check_network(spec)
        check_mounts(spec)

    async def _check_network(self, spec: WorkerSpec) -> None:
        try:
            driver = await self._engine.network_driver(spec.network)
        except NotFound as error:
            raise InvalidRequest(
                f"the engine has no network {spec.network}",
                resolution=f"create it (`docker network create {spec.network}`), or correct its "
                "name (`docker network ls`)",
            ) from error
        _refuse(spec, driver_obstacles(spec.network, driver))

    async def __call__(self, worker: Worker) -> None:
        """Bring it up; a failure is told by its state. Cancelled: it is still ``creating``."""
        try:
            await self._bring_up(worker, await self._digest(worker.spec.image))
        except WarmbootError as error:
            await self._states.enter(
                worker.id,
                WorkerState.FAILED,
                told={"error": error.as_dict()},
                error=error.as_dict(),
            )

    async def _digest(self, image: str) -> str:
        try:
            return await self._engine.image_digest(image)
        except ImageNotFound:
            await self._engine.pull(image)
            return await self._engine.image_digest(image)

    async def _bring_up(self, worker: Worker, digest: str) -> None:
        await remove_containers(self._engine, worker.id)  # of an attempt that broke off
        async with on_failure(lambda: self._remove(worker)):
            labels = {**worker.spec.labels, LABEL: str(worker.id)}
            runtime = (await self._engine.facts()).worker_runtime
            docker_id = await self._engine.create_worker(
                replace(worker.spec, labels=labels),
                extra_environment=self._environment(worker.id),
                runtime=runtime,
            )
            if worker.spec.start:
                await self._engine.start(docker_id)
            await self._record(worker, docker_id, digest, runtime)

    async def _record(self, worker: Worker, docker_id: str, digest: str, runtime: str) -> None:
        known: dict[str, Any] = {
            "docker_id": docker_id,
            "image_digest": digest,
            "runtime": runtime,
        }
        if worker.spec.start:
            await self._states.enter(worker.id, WorkerState.RUNNING, **known)
        else:
            now = await self._store.workers.update(worker.id, **known)
            await self._states.tell(now, "created")

    async def _remove(self, worker: Worker) -> None:
        try:
            await remove_containers(self._engine, worker.id)
        except WarmbootError as failure:  # then the next start does, or who deletes the worker
            log.error("a worker's container stays", worker=worker.name, error=str(failure))


def refuse_spec(engine: EngineFacts, spec: WorkerSpec) -> None:
    """``NotSupported`` when this engine could not pause and resume such a worker."""
    if engine.worker_runtime:
        wake_on = spec.policy.wake_on
        found = runtime_obstacles(spec.network, auto_remove=spec.auto_remove, wake_on=wake_on)
    elif not engine.experimental:
        raise NotSupported(
            "the Docker engine is not in experimental mode, so its workers cannot be paused",
            resolution="`warmboot doctor --fix` gives it a runtime that does not need that mode",
        )
    else:
        found = obstacles(engine.version, spec.network, tty=spec.tty, auto_remove=spec.auto_remove)
    _refuse(spec, found)


def _refuse(spec: WorkerSpec, found: Collection[Obstacle]) -> None:
    if found:
        raise NotSupported(
            f"{spec.name} could not be resumed after a pause",
            details="; ".join(obstacle.reason for obstacle in found),
            resolution="; ".join(obstacle.remedy for obstacle in found),
        )


def check_mounts(spec: WorkerSpec) -> None:
    """``InvalidRequest`` for a mount whose source is not there, or whose target is impossible."""
    targets = [mount.target.rstrip("/") for mount in spec.mounts]
    for mount, target in zip(spec.mounts, targets, strict=True):
        if not target:
            raise InvalidRequest(
                "a mount cannot be the worker's whole file system",
                resolution="choose a folder below / as its target",
            )
        if targets.count(target) > 1:
            raise InvalidRequest(f"two mounts have the target {mount.target}")
        if not Path(mount.source).exists():
            raise InvalidRequest(
                f"{mount.source} does not exist, so it cannot be mounted",
                details="a mount's source is a path on the manager's machine",
                resolution="make it first, or correct the path",
            )
