"""An engine that has missed the end of a worker's process removes its container all the same."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typing_extensions import override

from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.manager.workers.recover_worker import remove_containers
from warmboot.model.errors import Conflict, ContainerError, EngineUnavailable, NotFound

NO_PROCESS = 1 << 22
"""Above what any kernel numbers them by."""


class Engine(DockerEngine):
    """Of one container, whose end it has ``missed`` until it cannot send it a signal."""

    def __init__(self, socket: Path, *, missed: bool, is_stuck: bool = False) -> None:
        super().__init__(socket)
        self.missed = missed
        self.is_stuck = is_stuck
        self.containers = ["c1"]

    @override
    async def labelled(self, label: str) -> list[str]:
        return list(self.containers)

    @override
    async def inspect(self, container: str) -> ContainerFacts:
        if container not in self.containers:
            raise NotFound(f"there is no {container}")
        state = {"Running": self.missed, "Pid": NO_PROCESS, "ExitCode": 0, "StartedAt": ""}
        return ContainerFacts.of(
            {"Id": container, "Name": "w1", "Image": "", "State": {"Status": "", **state}}
            | {"Config": {"Image": "app:1", "Tty": False}, "HostConfig": {"NetworkMode": "host"}}
        )

    @override
    async def wait_stopped(self, container: str, timeout_s: float | None = None) -> int:
        if self.missed:
            raise EngineUnavailable("it goes on")
        return 137

    @override
    async def kill(self, container: str, signal: str = "SIGKILL") -> None:
        self.missed = False
        raise Conflict("it does not run")

    @override
    async def remove(self, container: str) -> None:
        if self.missed or self.is_stuck:
            raise ContainerError("tried to kill container, but did not receive an exit event")
        self.containers.remove(container)


@pytest.fixture
def worker_id() -> UUID:
    return uuid4()


async def test_its_container_is_removed(tmp_path: Path, worker_id: UUID) -> None:
    engine = Engine(tmp_path, missed=True)
    await remove_containers(engine, worker_id)
    assert engine.containers == []


async def test_what_cannot_be_removed_at_all_is_told(tmp_path: Path, worker_id: UUID) -> None:
    engine = Engine(tmp_path, missed=False, is_stuck=True)
    with pytest.raises(ContainerError, match="exit event"):
        await remove_containers(engine, worker_id)
    assert engine.containers == ["c1"]


async def test_who_has_removed_it_meanwhile_does_no_harm(tmp_path: Path, worker_id: UUID) -> None:
    class Removed(Engine):
        @override
        async def remove(self, container: str) -> None:
            was = list(self.containers)
            self.containers.clear()
            if was:
                raise ContainerError("it is gone already")

    await remove_containers(Removed(tmp_path, missed=False), worker_id)
