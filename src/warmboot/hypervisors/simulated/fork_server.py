"""The process that simulated VMs are forked from, one for each process that starts VMs.

It is started with the first VM, and ends when this process does, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from warmboot.hypervisors.process import FIRST_FD, Forked
from warmboot.model.errors import HypervisorError

VMM_PROGRAM = Path(__file__).resolve().parent / "vmm" / "__main__.py"
ANSWER_TIMEOUT_S = 30.0
_MAX_ANSWER_BYTES = 4096
_ROOM_FOR_COMMANDS = 8192
"""Bytes of its own command line, over which each fork writes its own."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(VMM_PROGRAM), *arguments]


class ForkServer:
    """Blocking: call it in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected: socket.socket | None = None
        self._pid = 0

    def fork(self, arguments: Sequence[str], log: Path) -> Forked:
        """A new process that runs ``vmm`` with these arguments, its output in ``log``."""
        order = json.dumps({"arguments": list(arguments), "log": str(log.resolve())}).encode()
        with self._lock:
            try:
                if self._connected is not None:
                    with contextlib.suppress(ConnectionError):
                        return self._ask(self._connected, order)
                    self._end()  # somebody has ended it
                return self._ask(self._start(), order)
            except OSError as error:
                self._end()
                raise HypervisorError(
                    "no process could be forked for a simulated VM", details=str(error)
                ) from error

    def end(self) -> None:
        """It is started again when it is needed."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """After a fork of this process: it is the parent's."""
        self._lock = threading.Lock()
        if self._connected is not None:
            self._connected.close()
            self._connected = None
        self._pid = 0

    def _ask(self, connected: socket.socket, order: bytes) -> Forked:
        try:
            connected.send(order)
            answer, descriptors, _, _ = socket.recv_fds(connected, _MAX_ANSWER_BYTES, 1)
        except TimeoutError:
            self._end()
            raise
        if not answer:
            raise ConnectionResetError("it has ended")
        told = json.loads(answer)
        return Forked(told["pid"], told["start_time_ticks"], descriptors[0])

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_TIMEOUT_S)
        with its:
            actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
                (os.POSIX_SPAWN_DUP2, its.fileno(), FIRST_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ]
            self._connected = ours
            self._pid = os.posix_spawn(
                sys.executable,
                command("--fork-server", str(FIRST_FD), " " * _ROOM_FOR_COMMANDS),
                {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
            )
        return ours

    def _end(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # ours and not reaped: it is still that one
            os.waitpid(self._pid, 0)
            self._pid = 0


FORK_SERVER = ForkServer()
os.register_at_fork(after_in_child=FORK_SERVER.forget)
atexit.register(FORK_SERVER.end)
