"""An engine's containers when it is stopped and started: as when the host of a Docker is rebooted.

    stop    each container by its own signal; noted: those that are to run ``unless-stopped``
    start   dockerd starts what it is to start, we start what was noted, and what dockerd could not
            start, as folders of the host are there only when it is

Stopped over its API, dockerd takes them for stopped by their user, and would leave them so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from warmboot.docker.client import DockerClient
from warmboot.host.agent import HostAgent
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.tenants.engine import Engine
from warmboot.model.tenants.mounted_folders import IN_GUEST
from warmboot.store import Store

log = structlog.get_logger(__name__)


class EngineContainers:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host

    async def stop(self, engine: Engine, timeout_s: float) -> None:
        """Let them end, and have on its disk what they wrote."""
        assert engine.vm_id is not None
        try:
            link = self._host.vms.link(engine.vm_id)
            running = await link.docker.running()
            await self._note(engine, link.docker, running)
            await _each("stop", engine, [link.docker.stop(one, timeout_s) for one in running])
            await link.sync()
        except WarmbootError as error:
            log.warning("an engine is stopped that does not answer", error=error.brief)

    async def start(self, engine: Engine) -> None:
        """Those that were noted or need its folders; one that cannot be started stays as it is."""
        waited_for_folders = bool(engine.spec.folders) and engine.goes_on
        if engine.vm_id is None or not (engine.restarts or waited_for_folders):
            return
        docker, wanted = self._host.vms.link(engine.vm_id).docker, dict.fromkeys(engine.restarts)
        if waited_for_folders:
            try:
                wanted |= dict.fromkeys(await _too_early(docker))
            except WarmbootError as error:
                log.warning("what needs an engine's folders is not started", error=error.brief)
        await _each("start", engine, [docker.start(one) for one in wanted])

    async def _note(self, engine: Engine, docker: DockerClient, running: list[str]) -> None:
        """Before the first is stopped. What an interrupted stop has noted counts, too."""
        described = await asyncio.gather(
            *(docker.description(one) for one in running), return_exceptions=True
        )
        found = set(engine.restarts)
        for container, description in zip(running, described, strict=True):
            if isinstance(description, dict):  # else it is gone, or says nothing
                policy = description["HostConfig"].get("RestartPolicy") or {}
                if policy.get("Name") == "unless-stopped":
                    found.add(container)
            elif not isinstance(description, WarmbootError):
                raise description
        if found != set(engine.restarts):
            await retry_until_stored(
                f"which containers of engine {engine.id} are started again",
                lambda: self._store.engines.update(engine.id, restarts=tuple(sorted(found))),
            )


async def _too_early(docker: DockerClient) -> list[str]:
    """Those that dockerd was to start with itself, when their folders were not there yet."""
    found = []
    for one in await docker.which_exited():
        with contextlib.suppress(NotFound):
            of = await docker.description(one)
            policy = (of["HostConfig"].get("RestartPolicy") or {}).get("Name")
            if policy in ("always", "unless-stopped") and IN_GUEST in of["State"].get("Error", ""):
                found.append(one)
    return found


async def _each(doing: str, engine: Engine, work: list[Coroutine[Any, Any, None]]) -> None:
    """One that fails does not keep the others from it."""
    for ended in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(ended, WarmbootError):
            log.warning(f"a container did not {doing}", of=str(engine.id), error=ended.brief)
        elif isinstance(ended, BaseException):
            raise ended
