"""A container whose process is gone, and whose engine has not noticed.

After a dump that takes dockerd a quarter of a second. If containerd was killed just then, it never
does: nobody tells it again. It finds out when it is to send the container a signal, and waits for
the container's stop timeout (ten seconds) before it believes that.
"""

from __future__ import annotations

import asyncio
import contextlib

from warmboot.criu.continuity import has_ended
from warmboot.criu.in_progress import answered
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.model.errors import Conflict, EngineUnavailable

STOP_TIMEOUT_S = 30.0
NOTICES_WITHIN_S = 2.0
HARMLESS = "SIGCONT"


async def inspect_when_stopped(
    engine: DockerEngine, container: str, limit_s: float = STOP_TIMEOUT_S
) -> ContainerFacts:
    """``inspect``, but an engine that has not yet noticed that the process is gone is waited for.

    ``EngineUnavailable`` if it does not answer, or has not noticed, within ``limit_s``.
    """
    found = await answered(engine.inspect(container), limit_s)
    if found.running and found.pid and await asyncio.to_thread(has_ended, found.pid):
        await _until_noticed(engine, found, limit_s)
        found = await answered(engine.inspect(container), limit_s)
    return found


async def _until_noticed(engine: DockerEngine, container: ContainerFacts, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            with contextlib.suppress(EngineUnavailable):
                await engine.wait_stopped(container.id, NOTICES_WITHIN_S)
                return
            with contextlib.suppress(Conflict):  # it has noticed just now
                await engine.kill(container.id, HARMLESS)
            await engine.wait_stopped(container.id)
    except TimeoutError as error:
        raise EngineUnavailable(
            f"the Docker engine has not noticed that the process of {container.name} is gone",
            details=f"it still had it as running after {limit_s:g} s",
            resolution="try again in half a minute; restart the engine if this continues",
        ) from error
