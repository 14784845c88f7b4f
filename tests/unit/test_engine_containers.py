"""Which containers are started when an engine is, beside those that its dockerd has started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from warmboot.manager.engines.engine_containers import EngineContainers
from warmboot.model.errors import HostError, NotFound
from warmboot.model.tenants.engine import Engine
from warmboot.model.tenants.host_folder import HostFolder

FOLDER = HostFolder("/srv/code")
MISSING = (
    f"error while creating mount source path '/run/warmboot/folders/{FOLDER.id}/src': mkdir "
    "/run/warmboot/folders: read-only file system"
)
ENDED = {
    "always": ("always", MISSING),
    "until stopped": ("unless-stopped", MISSING),
    "once": ("no", MISSING),
    "fails": ("always", "exec: no such file"),
    "ended": ("on-failure", ""),
}


class Docker:
    def __init__(self, *, answers: bool = True) -> None:
        self.started: list[str] = []
        self._answers = answers

    async def which_exited(self) -> list[str]:
        if not self._answers:
            raise HostError("Docker does not answer")
        return [*ENDED, "removed"]

    async def description(self, container: str) -> dict[str, Any]:
        if container not in ENDED:
            raise NotFound(f"there is no container {container}")
        policy, error = ENDED[container]
        host = {"RestartPolicy": {"Name": policy}}
        return {"HostConfig": host, "State": {"Status": "exited", "Error": error}}

    async def start(self, container: str) -> None:
        self.started.append(container)


async def started(docker: Docker, *folders: HostFolder, goes_on: bool = True) -> list[str]:
    vms = SimpleNamespace(link=lambda _: SimpleNamespace(docker=docker))
    spec = SimpleNamespace(folders=folders)
    engine = SimpleNamespace(vm_id="vm", restarts=("noted",), spec=spec, goes_on=goes_on, id="1")
    containers = EngineContainers(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)))
    await containers.start(cast(Engine, engine))
    return docker.started


async def test_what_its_docker_could_not_start_without_its_folders_is_started() -> None:
    assert await started(Docker(), FOLDER) == ["noted", "always", "until stopped"]
    assert await started(Docker()) == ["noted"], "there are none"
    assert await started(Docker(), FOLDER, goes_on=False) == ["noted"], "its disk is new"


async def test_a_docker_that_does_not_tell_starts_what_was_noted() -> None:
    assert await started(Docker(answers=False), FOLDER) == ["noted"]
