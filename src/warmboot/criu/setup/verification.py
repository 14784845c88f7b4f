"""Checkpoints and restores a test container, and verifies that its memory survived.

The test container makes up a secret when it starts and keeps it in its memory only, printing it
with a growing number. After the restore the same secret must be there and the number must go on.
It has a child and holds a lock, and is not root's where CRIU can save such processes: before each
number it looks whether it has lost them, and if so says that and ends.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.checkpoint import checkpoint
from warmboot.criu.restore import restore
from warmboot.criu.runtime.orders import forget
from warmboot.criu.setup.findings import can_save_other_users
from warmboot.docker.engine import DockerEngine
from warmboot.docker.tiny_image import BUSYBOX_APPLETS, image_archive, static_busybox
from warmboot.model.errors import CheckpointError, ImageNotFound
from warmboot.model.worker import WorkerSpec
from warmboot.system.concurrency import finish
from warmboot.system.programs import run_program

IMAGE = "warmboot/verification:1"
FALLBACK_IMAGE = "busybox:latest"
LINES_TIMEOUT_S = 30.0
ROOT, OTHER_USER = "root", "nobody"
_PASSWD = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
_COUNT = (
    "s=$(head -c 12 /dev/urandom | od -An -tx1 | head -n 1); i=0; sleep 100000 & c=$!; {hold}"
    "while true; do i=$((i+1)); "
    "kill -0 $c 2> /dev/null || {{ echo 'lost its child'; exit 1; }}; {look}"
    'echo "$s:$i"; sleep 0.1; done'
)
_HOLD = "exec 9< /lock; flock -n 9; "
_LOOK = "if flock -n /lock true; then echo 'lost its lock'; exit 1; fi; "
_AS_ROOT = ': > /lock; exec sh -c "$COUNT"'
_AS_OTHER = f': > /lock; exec su -s /bin/sh {OTHER_USER} -c "$COUNT"'


@dataclass(frozen=True, slots=True)
class Verified:
    """Seconds of each half, and how far the test container had counted before and after.

    ``user`` is whose its processes were, ``lock`` whether they held a lock.
    """

    pause_s: float
    resume_s: float
    count_before: int
    count_after: int
    user: str = ROOT
    lock: bool = False


async def verify(engine: DockerEngine, search_path: str = SEARCH_PATH) -> Verified:
    """Do it as with a worker. Whatever is in the way is raised; nothing of the test is left.

    ``search_path`` is where CRIU is for a container that runs on the runtime of ours.
    """
    with tempfile.TemporaryDirectory(prefix="warmboot-verification-") as folder:
        return await _verify(engine, search_path, Path(folder))


async def _verify(engine: DockerEngine, search_path: str, folder: Path) -> Verified:
    image, has_flock = await _image(engine)
    runtime = (await engine.facts()).worker_runtime
    lock = has_flock and bool(runtime)  # the engine's own checkpoints know no such option
    user = OTHER_USER if can_save_other_users() else ROOT
    spec = WorkerSpec(
        name=f"warmboot-verification-{secrets.token_hex(4)}",
        image=image,
        command=("sh", "-c", _AS_ROOT if user == ROOT else _AS_OTHER),
        environment={
            "COUNT": _COUNT.format(hold=_HOLD if lock else "", look=_LOOK if lock else "")
        },
    )
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
        await asyncio.to_thread(forget, container)
    if secret_after != secret:
        raise CheckpointError(
            "the restored test container has lost its memory",
            details="it generated a new secret, so it was started anew",
            resolution="use another version of Docker or CRIU",
        )
    return Verified(dumped.duration_s, restored.duration_s, before, after, user, lock)


async def _image(engine: DockerEngine) -> tuple[str, bool]:
    """Its name, and whether it has the program ``flock``."""
    busybox = static_busybox()
    if busybox is not None:
        flock = await _flock()
        files = {"bin/busybox": busybox.read_bytes(), "etc/passwd": _PASSWD.encode(), **flock}
        links = {f"bin/{applet}": "busybox" for applet in (*BUSYBOX_APPLETS, "su")}
        await engine.load_image(image_archive(IMAGE, files, links, ["sh"]))
        return IMAGE, bool(flock)
    try:
        await engine.image_digest(FALLBACK_IMAGE)
    except ImageNotFound:
        await engine.pull(FALLBACK_IMAGE)
    return FALLBACK_IMAGE, True


async def _flock() -> dict[str, bytes]:
    """This machine's, with its libraries; nothing if it has none."""
    program = shutil.which("flock", path=SEARCH_PATH)
    if program is None:
        return {}
    told = await run_program("ldd", program, check=False, timeout_s=LINES_TIMEOUT_S)
    words = [word for word in told.output.split() if word.startswith("/")]
    return {path.lstrip("/"): Path(path).read_bytes() for path in (program, *words)}


async def _count(engine: DockerEngine, container: str, *, beyond: int) -> tuple[str, int]:
    """Wait until the container has printed a number above ``beyond``."""
    last: tuple[str, int] | None = None
    try:
        async with asyncio.timeout(LINES_TIMEOUT_S):
            async for line in engine.logs(container, follow=True):
                if line.startswith("lost "):
                    raise CheckpointError(f"the restored test container has {line.strip()}")
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
