"""Create a worker's container and start it.

image there, or pulled ─▶ container ─▶ started ─▶ record
                             │ error, kill -9
                             ▼
                   whatever has its label is removed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from warmboot.docker.client import DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.manager.core.saga import Context, Saga, SagaRunner, Step
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.checkpoint import obstacles
from warmboot.model.errors import ImageNotFound, InvalidRequest, NotSupported, WarmbootError
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store

LABEL = "dev.warmboot.worker"

Environment = Callable[[UUID], dict[str, str]]


class CreateWorker:
    """``environment`` is what the manager adds for a worker: where it is, and who that is."""

    def __init__(
        self,
        store: Store,
        engine: DockerEngine,
        runner: SagaRunner,
        states: WorkerStates,
        environment: Environment,
    ) -> None:
        self._store = store
        self._engine = engine
        self._runner = runner
        self._states = states
        self._environment = environment
        self.saga = Saga(
            "create-worker",
            (
                Step("image", self._image),
                Step("container", self._container, self._remove),
                Step("start", self._start),
                Step("record", self._record),
            ),
        )

    async def check(self, spec: WorkerSpec) -> None:
        """Refuse what could never be resumed, or not even started. ``EngineUnavailable``."""
        refuse_spec(await self._engine.facts(), spec)
        check_mounts(spec)

    async def __call__(self, worker: Worker) -> None:
        """Bring it up; a failure is told by its state. Cancelled: it is still ``creating``."""
        try:
            await self._runner.run(self.saga, str(worker.id), {}, {"worker": worker})
        except WarmbootError as error:
            await self._states.enter(
                worker.id,
                WorkerState.FAILED,
                told={"error": error.as_dict()},
                error=error.as_dict(),
            )

    async def _image(self, context: Context) -> None:
        worker: Worker = context.live["worker"]
        try:
            digest = await self._engine.image_digest(worker.spec.image)
        except ImageNotFound:
            await self._engine.pull(worker.spec.image)
            digest = await self._engine.image_digest(worker.spec.image)
        context.live["digest"] = digest

    async def _container(self, context: Context) -> None:
        await self._remove(context)  # of an attempt that could not be undone then
        worker: Worker = context.live["worker"]
        labels = {**worker.spec.labels, LABEL: str(worker.id)}
        context.live["docker_id"] = await self._engine.create(
            replace(worker.spec, labels=labels), extra_environment=self._environment(worker.id)
        )

    async def _start(self, context: Context) -> None:
        worker: Worker = context.live["worker"]
        if worker.spec.start:
            await self._engine.start(context.live["docker_id"])

    async def _record(self, context: Context) -> None:
        worker: Worker = context.live["worker"]
        known = {
            "docker_id": context.live["docker_id"],
            "image_digest": context.live["digest"],
        }
        if worker.spec.start:
            await self._states.enter(worker.id, WorkerState.RUNNING, **known)
        else:
            now = await self._store.workers.update(worker.id, **known)
            await self._states.tell(now, "created")

    async def _remove(self, context: Context) -> None:
        for container in await self._engine.labelled(f"{LABEL}={context.subject_id}"):
            await self._engine.remove(container)


def refuse_spec(engine: EngineFacts, spec: WorkerSpec) -> None:
    """``NotSupported`` when this engine could not pause and resume such a worker."""
    if not engine.experimental:
        raise NotSupported(
            "the Docker engine is not in experimental mode, so its workers cannot be paused",
            resolution="`warmboot doctor --fix --restart-engine` puts it into that mode",
        )
    found = obstacles(engine.version, spec.network, tty=spec.tty, auto_remove=spec.auto_remove)
    if found:
        raise NotSupported(
            f"{spec.name} could not be paused so that it would resume",
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
                f"{mount.source} is not there, so it cannot be mounted",
                details="a mount's source is a path on the manager's machine",
                resolution="make it first, or correct the path",
            )
