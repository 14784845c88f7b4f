"""The log of a guest's console, limited in size.

A guest can print for ever, and its VMM would fill the disk. So the VMM writes to a pipe, and a
``cat`` at its other end to the log, until that is as long as it may get. Then it ends, and the
VMM goes on without a reader. It outlives the manager like the VMM does, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmboot.system.on_failure import on_failure

_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20
_LAST_WORDS_S = 2.0


class ConsoleLog:
    """The program that writes it. ``pipe`` is the VMM's end; ``close_pipe`` once the VMM has it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self._pidfd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def close_pipe(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    async def finish(self) -> None:
        """Return when all that was printed is in the log; the VMM is gone. Idempotent."""
        self.close_pipe()
        if self._ended.is_set():
            return
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._ended.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self._ended.wait()

    def _on_exit(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._ended.set()


def set_aside(path: Path, limit_bytes: int) -> None:
    """Make room for what the next start of a VM has to say: half of the log at least."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit_bytes // 2:
            path.replace(path.with_name(f"{path.name}.old"))


def start(path: Path, prefix: Sequence[str]) -> tuple[int, int]:
    """The pid of the writer and the end of the pipe to write to. ``prefix`` limits the length of
    its files, and drops its rights."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # more than this user may have: it stays small
        fcntl.fcntl(writing, _F_SETPIPE_SZ, _PIPE_BYTES)
    argv = [*prefix, "cat"]
    with on_failure(lambda: os.close(writing)), _closing(reading):
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, reading, 0),
                (
                    os.POSIX_SPAWN_OPEN,
                    1,
                    str(path),
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                    0o640,
                ),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM],
        )
    return pid, writing


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
