"""Checkpoints and restores a test container, and verifies that its memory survived.

The test container makes up a secret when it starts and keeps it in its memory only, printing it
with a growing number. After the restore the same secret must be there and the number must go on.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.checkpoint import checkpoint
from warmboot.criu.restore import restore
from warmboot.criu.runtime.orders import withdraw
from warmboot.docker.engine import DockerEngine
from warmboot.docker.tiny_image import busybox_image, static_busybox
from warmboot.model.errors import CheckpointError, ImageNotFound
from warmboot.model.worker import WorkerSpec
from warmboot.system.concurrency import finish

IMAGE = "warmboot/verification:1"
FALLBACK_IMAGE = "busybox:latest"
LINES_TIMEOUT_S = 30.0
_SCRIPT = (
    "s=$(head -c 12 /dev/urandom | od -An -tx1 | head -n 1); i=0; "
    'while true; do i=$((i+1)); echo "$s:$i"; sleep 0.1; done'
)


@dataclass(frozen=True, slots=True)
class Verified:
    """Seconds of each half, and how far the test container had counted before and after."""

    pause_s: float
    resume_s: float
    count_before: int
    count_after: int


async def verify(engine: DockerEngine, search_path: str = SEARCH_PATH) -> Verified:
    """Do it as with a worker. Whatever is in the way is raised; nothing of the test is left.

    ``search_path`` is where CRIU is for a container that runs on the runtime of ours.
    """
    with tempfile.TemporaryDirectory(prefix="warmboot-verification-") as folder:
        return await _verify(engine, search_path, Path(folder))


async def _verify(engine: DockerEngine, search_path: str, folder: Path) -> Verified:
    image = await _image(engine)
    name = f"warmboot-verification-{secrets.token_hex(4)}"
    spec = WorkerSpec(name=name, image=image, command=("sh", "-c", _SCRIPT))
    runtime = (await engine.facts()).worker_runtime
    container = await engine.create_worker(spec, extra_environment={}, runtime=runtime)
    into = folder / "verification" if runtime else None
    try:
        await engine.start(container)
        secret, _ = await _count(engine, container, beyond=2)
        dumped = await checkpoint(
            engine, container, "verification", into=into, search_path=search_path
        )
        _, before = await _last(engine, container)
        restored = await restore(
            engine, container, "verification", into=into, search_path=search_path
        )
        secret_after, after = await _count(engine, container, beyond=before)
    finally:
        await finish(engine.remove(container))
        await asyncio.to_thread(withdraw, container)
    if secret_after != secret:
        raise CheckpointError(
            "the restored test container has lost its memory",
            details="it generated a new secret, so it was started anew",
            resolution="use another version of Docker or CRIU",
        )
    return Verified(dumped.duration_s, restored.duration_s, before, after)


async def _image(engine: DockerEngine) -> str:
    busybox = static_busybox()
    if busybox is not None:
        await engine.load_image(busybox_image(IMAGE, busybox, ["sh"]))
        return IMAGE
    try:
        await engine.image_digest(FALLBACK_IMAGE)
    except ImageNotFound:
        await engine.pull(FALLBACK_IMAGE)
    return FALLBACK_IMAGE


async def _count(engine: DockerEngine, container: str, *, beyond: int) -> tuple[str, int]:
    """Wait until the container has printed a number above ``beyond``."""
    last: tuple[str, int] | None = None
    try:
        async with asyncio.timeout(LINES_TIMEOUT_S):
            async for line in engine.logs(container, follow=True):
                last = _parse(line) or last
                if last is not None and last[1] > beyond:
                    return last
    except TimeoutError:
        pass
    raise CheckpointError(
        "the test container does not continue",
        details=f"its last number was {last[1] if last else 'none'}, expected one above {beyond}",
        resolution="check the engine's log",
    )


async def _last(engine: DockerEngine, container: str) -> tuple[str, int]:
    found = [_parse(line) async for line in engine.logs(container, tail=5)]
    lines = [one for one in found if one is not None]
    if not lines:
        raise CheckpointError("the test container has printed nothing")
    return lines[-1]


def _parse(line: str) -> tuple[str, int] | None:
    secret, _, number = line.strip().rpartition(":")
    return (secret, int(number)) if secret and number.isdigit() else None
