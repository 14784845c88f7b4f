"""Dumps a container by runc itself: the engine sees nothing of it but the container's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from warmboot.criu.images import read_dump
from warmboot.criu.in_progress import Limits, Work, unless_it_hangs
from warmboot.criu.kerndat.cache import with_kerndat
from warmboot.criu.log import CriuLog
from warmboot.criu.room import check_room
from warmboot.criu.runtime.files import remove_script, write_script
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.held_files import command_to_note, held_in, write_noted
from warmboot.criu.runtime.orders import Runc, give_options, runc_of
from warmboot.criu.runtime.program import EMPTY
from warmboot.criu.runtime_work import end_in, ends_within, freeze, thaw
from warmboot.docker.facts import ContainerFacts
from warmboot.model.errors import CheckpointError, DiskFull, HostError
from warmboot.system import procfs
from warmboot.system.concurrency import finish
from warmboot.system.programs import run_program

DUMP_LOG = "dump.log"
ENDS_WITHIN_S = 1.0
"""Until a process is gone that was killed just now."""

OPTIONS = ("tcp-established", "file-locks", "link-remap", f"ghost-limit {1 << 40}")
"""CRIU's, for dumps and restores: open connections, locks, files whose name is gone but that live
on under another one, and deleted files of any size."""

MASKED = {
    place: f"{EMPTY}/{place[1:].replace('/', '-')}"
    for place in (
        "/proc/acpi",
        "/proc/asound",
        "/proc/scsi",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    )
}
"""Folders that engines hide, each under an empty tmpfs; and what hides them after a restore, an
empty folder each. CRIU runs tar to save and to restore a tmpfs, which takes longer than all else
that it does about mounts. Of two mounts of one folder it restores only one as read-only."""

RESTORE_OPTIONS = (*OPTIONS, *(f"external mnt[{one}]:{empty}" for one, empty in MASKED.items()))
"""An option for what was not left out of the dump has no effect."""


async def dump(
    work: Work,
    folder: CheckpointFolder,
    log: CriuLog,
    *,
    search_path: str,
    layer: Path | None,
    mounts: Mapping[str, Path],
    leave_running: bool,
    limits: Limits,
) -> None:
    """Dump the container into ``folder``, which is begun and not yet published.

    ``search_path`` is where CRIU is, ``layer`` the folder of what the container has written,
    ``mounts`` where on the host is what is mounted in it.
    ``log`` has what CRIU said, whatever came of it.
    ``CheckpointError``, ``DiskFull``.
    """
    runc, held = await asyncio.to_thread(_prepare, work, folder, layer, mounts)
    words: list[str | Path] = [runc.program, "--root", runc.root, "checkpoint"]
    words += ["--image-path", folder.memory, "--work-path", folder.path]
    if leave_running:
        words.append("--leave-running")
    words.append(work.container_id)

    async def run() -> None:
        await run_program(
            *with_kerndat(*words),
            environment={"PATH": search_path},
            timeout_s=None,
            new_session=True,  # it goes on when the manager is ended from a terminal
            failure=CheckpointError,
        )

    try:
        async with _frozen(work.container_id, work.pid):
            try:
                await unless_it_hangs(work, run(), limits)
            except asyncio.CancelledError:
                await finish(asyncio.to_thread(end_in, folder.path))  # CRIU, whose runc was killed
                raise
        await asyncio.to_thread(write_noted, folder.held, held)
    finally:
        await finish(asyncio.to_thread(remove_script, work.container_id))
        with contextlib.suppress(OSError):
            log.hold(folder.path / DUMP_LOG)


def _prepare(
    work: Work, folder: CheckpointFolder, layer: Path | None, mounts: Mapping[str, Path]
) -> tuple[Runc, Mapping[Path, str]]:
    """Which runc runs it, and the files in ``mounts`` that it has open."""
    runc = runc_of(work.container_id)
    if runc is None:
        raise CheckpointError(
            "the runtime does not know the container",
            details="it has noted nothing about it: perhaps it is not warmboot's any more",
            resolution="`warmboot doctor` checks the runtime; restart the worker with it",
        )
    held = held_in(mounts, work.pid)
    options = [*OPTIONS, *(f"external mnt[{path}]:{path}" for path in masked_in(work.pid))]
    if layer is not None or held:
        note = command_to_note(held, folder.held) if held else ""
        script = write_script(work.container_id, layer, folder, note)
        options.append(f"action-script {script}")
    give_options(work.container_id, options)
    return runc, held


def masked_in(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """Which of ``MASKED`` are hidden in the container of ``pid``, and by nothing but emptiness.

    By a tmpfs as the engine has made it, or by our folder since a restore.
    """
    found: dict[str, bool] = {}
    with contextlib.suppress(OSError):
        for line in procfs.lines(proc / str(pid) / "mountinfo"):
            words = line.split(" ")
            root, place, options, kind = *words[3:6], words[words.index("-") + 1]
            if place in MASKED:
                ours = root.endswith(MASKED[place].removeprefix("/run"))
                engines = (root, kind) == ("/", "tmpfs")
                read_only, is_only_one = "ro" in options.split(","), place not in found
                empty = not any((proc / str(pid) / "root" / place[1:]).iterdir())
                found[place] = (ours or engines) and read_only and is_only_one and empty
    return [place for place, hidden in found.items() if hidden]


@contextlib.asynccontextmanager
async def _frozen(container_id: str, pid: int) -> AsyncIterator[None]:
    """A container that stands still before its dump; whatever becomes of that, it is thawed.

    CRIU leaves what runs on as it has found it.
    """
    freezing = asyncio.ensure_future(asyncio.to_thread(freeze, container_id, pid))
    try:
        await finish(freezing)  # also if we are cancelled: half frozen would stay so
        yield
    finally:
        if freezing.result():
            await finish(asyncio.to_thread(thaw, container_id, pid))


async def is_done(making: CheckpointFolder, pid: int) -> bool:
    """Whether a dump that was broken off is whole, and the processes from ``pid`` on are gone."""
    if await asyncio.to_thread(making.lacks_files.exists):
        return False
    try:
        await asyncio.to_thread(read_dump, making.memory)
    except CheckpointError:
        return False
    return await asyncio.to_thread(ends_within, pid, ENDS_WITHIN_S)


async def publish(folder: CheckpointFolder, paused_at: str = "") -> None:
    """Publish a checkpoint that is complete. ``DiskFull`` if it could not be synced to disk.

    ``paused_at`` is when the container was started that it has stopped.
    """

    def publish() -> None:
        if paused_at:
            folder.making.note_pause(paused_at)
        folder.publish()

    try:
        await asyncio.to_thread(publish)
    except OSError as error:
        raise DiskFull(
            "the checkpoint could not be written to the disk",
            details=str(error),
            resolution="see the kernel's log; the disk may be full or damaged",
        ) from error


async def begin(
    container: ContainerFacts, folder: CheckpointFolder, *, own_network: bool
) -> CheckpointFolder:
    """Make an empty folder to dump into. ``DiskFull``; ``HostError`` if it cannot be made."""

    def make() -> CheckpointFolder:
        check_room(container, folder.path)
        making = folder.begin()
        if own_network:
            making.note_own_network()
        return making

    try:
        return await asyncio.to_thread(make)
    except OSError as error:
        raise HostError(
            f"a checkpoint cannot be made in {folder.path.parent}",
            details=str(error),
            resolution="check that MANAGER_CHECKPOINT_ROOT is a folder that can be written to",
        ) from error
