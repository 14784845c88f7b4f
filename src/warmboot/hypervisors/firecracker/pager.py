"""The page server of a VM that was restored from compressed memory, as its driver sees it.

It is a process of its own beside Firecracker: in a session of its own, run as the VM's user, and
living as long as the VM does, through restarts of the manager too. Neither can do without the
other: the server kills a Firecracker whose faults it cannot answer, and when the server is gone its
Firecracker is killed here (by the next manager, if there is none just now), as it would hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import zstandard

from warmboot.hypervisors import memory
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.files import tail
from warmboot.hypervisors.memory.frames import Frames, damaged
from warmboot.hypervisors.process import VmmProcess, boot_id, start_time_ticks
from warmboot.model.errors import (
    HostError,
    HypervisorError,
    NotSupported,
    RestoreFailed,
    VmGone,
    WarmbootError,
)
from warmboot.model.vm import VmHandle, VmSpec
from warmboot.system.concurrency import end, race
from warmboot.system.on_failure import on_failure

T = TypeVar("T")

SOCKET = "pages.sock"
LOG = "pages.log"
RECORD_S = 10.0
RECORDED_FILE = ".touched.json"
"""Beside the frames: those that a VM faulted on in its first seconds, in that order."""

_PROGRAM = Path(memory.__file__).resolve().with_name("__main__.py")
_PACKAGES = Path(zstandard.__file__).resolve().parents[1]
_LONGEST_LINE = 16 << 20
_LAST_WORDS_S = 1.0
_BECOMES_S = 0.5


class Pager:
    """A page server. ``close`` lets go of it, ``kill`` ends it."""

    def __init__(
        self,
        process: VmmProcess,
        frames: Path | None = None,
        report: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None,
    ) -> None:
        self.process = process
        self.damage: HostError | None = None
        self._came_up = False
        self._frames = frames
        self._report = report
        self._listening = report and asyncio.create_task(self._listen(report[0]))

    @classmethod
    async def start(
        cls,
        spec: VmSpec,
        frames: Path,
        record_s: float = RECORD_S,
        confinement: Confinement | None = None,
    ) -> Pager:
        """Its socket takes connections when this returns, whether it has come up or not.

        If no touched frames are recorded yet, those of the first ``record_s`` seconds will be.
        """
        argv = [
            *(sys.executable, "-I", "-S", str(_PROGRAM), spec.id, str(spec.run_dir)),
            *(str(frames), str(frames.with_name(RECORDED_FILE)), str(record_s), str(_PACKAGES)),
        ]
        ours, its = socket.socketpair()
        with its, _listener(spec) as listener, on_failure(ours.close):
            report = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
            process = await VmmProcess.spawn(
                argv,
                spec=spec,
                hypervisor="pages",
                log=spec.run_dir / LOG,
                inherit=[listener.fileno(), its.fileno()],
                confinement=confinement,
                own_pids=False,  # its Firecracker's is told by the socket, as seen from here
            )
        return cls(process, frames, report)

    @classmethod
    async def find(cls, spec: VmSpec) -> Pager | None:
        """The server that another manager started; ``None`` if this VM needs none.

        ``VmGone`` if it needs one, and that is gone.
        """
        if not (spec.run_dir / SOCKET).exists():
            return None
        pid = await asyncio.to_thread(_find, spec.run_dir)
        if pid is None:  # one that becomes another program (execve(2)) has no command line then
            await asyncio.sleep(_BECOMES_S)
            pid = await asyncio.to_thread(_find, spec.run_dir)
        if pid is None:
            raise VmGone(f"the page server of {spec.id} is gone")
        ticks = start_time_ticks(pid) or 0
        handle = VmHandle(spec.id, "pages", pid, ticks, boot_id(), spec.run_dir)
        return cls(VmmProcess.attach(handle))

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``'s result, or why the server ended before."""
        try:
            done, ended = await race(work, self.process.wait())
            if done is None or ended is not None:
                raise await self.cause()
            return done.result()
        except VmGone as error:
            # It kills the VM before it ends itself: its words come right after.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self.process.wait()
            raise (await self.cause() if not self.process.alive else error) from error

    async def cause(self) -> WarmbootError:
        """Why it ended: ``SnapshotDamaged`` if it has told us so; ``NotSupported`` if it never came
        up, as the VM's user may not run our Python."""
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=_LAST_WORDS_S)
        if self.damage is not None:
            return self.damage
        ended = f"the page server of {self.process.handle.vm_id} ended"
        details = tail(self.process.handle.run_dir / LOG)
        if self._listening is not None and not self._came_up:
            return NotSupported(f"{ended} before it was up", details=details)
        return RestoreFailed(ended, details=details)

    async def kill(self) -> None:
        await self.process.kill()
        await self._stop_listening()

    async def close(self) -> None:
        self.process.close()
        await self._stop_listening()

    async def _stop_listening(self) -> None:
        if self._report is not None and self._listening is not None:
            await end(self._listening)
            self._report[1].close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        assert self._frames is not None
        with contextlib.suppress(OSError, ValueError):  # a line that is none: it was cut off
            while line := await reader.readline():
                news = json.loads(line)
                self._came_up = True
                if "damaged" in news:
                    self.damage = damaged(self._frames, _brief(self._frames, news["damaged"]))
                if "failed" in news:
                    self.damage = RestoreFailed(
                        f"pages of {self.process.handle.vm_id} could not be served",
                        details=str(news["failed"]),
                    )
                if "touched" in news:
                    await asyncio.to_thread(_record, self._frames, news["touched"])


def check_frames(path: Path, memory_mib: int) -> None:
    """``SnapshotDamaged`` if the index is; ``RestoreFailed`` if it is another shape's."""
    with Frames(path) as frames:
        if frames.plain_bytes != memory_mib << 20:
            raise RestoreFailed(
                f"{path} is of another shape",
                details=f"{frames.plain_bytes} bytes of memory instead of {memory_mib << 20}",
                resolution="rebuild the snapshot",
            )


def _record(frames: Path, touched: list[int]) -> None:
    """For the next server of this snapshot. If it cannot be noted, that one records again."""
    recorded = frames.with_name(RECORDED_FILE)
    temporary = recorded.with_name(f"{RECORDED_FILE}.new")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps([int(number) for number in touched]))
        temporary.chmod(0o644)
        temporary.rename(recorded)


def _brief(frames: Path, details: object) -> str:
    return str(details).removeprefix(f"{frames.name}: ")


@contextlib.contextmanager
def _listener(spec: VmSpec) -> Iterator[socket.socket]:
    """Bound before anybody can want to connect; only the VM's user may."""
    path = spec.run_dir / SOCKET
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            if spec.uid:
                os.chown(path, spec.uid, spec.gid or spec.uid)
            listener.listen(1)
            yield listener
    except OSError as error:
        raise HypervisorError(f"{path} cannot be listened on", details=str(error)) from error


def _find(run_dir: Path) -> int | None:
    """The session leader that serves pages for the VM in ``run_dir``."""
    wanted = re.compile(
        re.escape(os.fsencode(_PROGRAM)) + rb"\0[^\0]*\0" + re.escape(os.fsencode(run_dir)) + rb"\0"
    )
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if entry.name.isdigit() and wanted.search((entry / "cmdline").read_bytes()):
                pid = int(entry.name)
                if os.getsid(pid) == pid:
                    return pid
    return None
