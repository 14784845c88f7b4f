"""Runs the command of ``warmboot engine run``, and ends what it leaves when warmboot is killed.

    warmboot ──control──▶ this process ──▶ COMMAND ──▶ what that starts, in any group or session

A program of its own, of the standard library alone: it outlives a warmboot that is killed. What the
command has started becomes its child when the parent in between ends (PR_SET_CHILD_SUBREAPER), so
nothing gets away. ``control`` is a socket: a byte of it is a signal that was sent to warmboot, its
end is that of warmboot, and what is answered is the errno of a command that cannot be executed.

At a terminal all are one job of the shell's: Ctrl-C and Ctrl-Z reach the command as any other. What
the whole job was sent is not passed on once more. Elsewhere this is a session of its own. What
timeout(1) sends twice at once, to warmboot and to its group, reaches the command once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

GRACE_S = 10.0
"""From the SIGTERM to the SIGKILL, as with `docker stop`."""
KILLED_S = 5.0
"""How long what was killed may take to end. Another user's processes may not be killed at all."""

TOGETHER_S = 0.1
"""The same signal twice within it is one."""

_AGAIN_S = 0.1
"""What is forked while all are killed is killed then."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STATE, _PARENT = 0, 1
"""Of proc(5)'s fields after the name."""


class Supervisor:
    """Of one command; ``control`` leads to warmboot."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._is_session = os.getsid(0) == os.getpid()
        self._had: set[int] = set()
        """What the whole job was sent, and warmboot is about to pass on."""
        self._due: dict[int, float] = {}
        """When to pass on what only warmboot was sent, unless the whole job gets it by then."""
        self._last: dict[int, float] = {}
        """When the command got it, as far as warmboot has told."""
        self._told = False
        """To end: warmboot is gone, or was sent a signal."""
        self._ended: dict[int, int] = {}
        self._ignored = [n for n in PASSED_ON if signal.getsignal(n) is signal.SIG_IGN]
        self._signals, wakeup = socket.socketpair()
        self._signals.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, _noted)
        self._prctl = ctypes.CDLL(None).prctl
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def run(self, command: list[str]) -> int:
        """Its exit code, as a shell has it."""
        try:
            process = subprocess.Popen(command, preexec_fn=self._follow(os.getpid()))
        except OSError as error:
            self._control.send(str(error.errno).encode())
            return 127
        child = process.pid  # of a Popen that is kept: one that is dropped reaps its process
        warmboot_is_there = True
        while child not in self._ended and warmboot_is_there:
            warmboot_is_there = self._wait(child)
        if self._told:
            self._end_all()
        code = os.waitstatus_to_exitcode(self._ended.get(child, signal.SIGKILL))
        return 128 - code if code < 0 else code

    def _follow(self, parent: int) -> Callable[[], None]:
        """For the child, between fork and exec."""

        def follow() -> None:
            for number in self._ignored:
                signal.signal(number, signal.SIG_IGN)
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was gone before
                os.kill(os.getpid(), signal.SIGTERM)

        return follow

    def _wait(self, child: int) -> bool:
        """For a signal, a child's end or warmboot's: whether that is still there."""
        left_s = min(self._due.values()) - time.monotonic() if self._due else None
        watched = [self._signals, self._control]
        ready, _, _ = select.select(watched, [], [], left_s and max(left_s, 0))
        self._look_at_signals()  # first: what the job got is known before it is passed on
        if self._control in ready:
            if not (passed_on := self._control.recv(64)):
                self._told = True
                return False
            self._told = True
            for number in passed_on:
                self._take(number)
        self._pass_on(child)
        return True

    def _take(self, number: int) -> None:
        """From warmboot."""
        now = time.monotonic()
        if number in self._had:
            self._had.discard(number)
            self._last[number] = now
        elif now >= self._last.get(number, -TOGETHER_S) + TOGETHER_S:
            self._due.setdefault(number, now if self._is_session else now + TOGETHER_S)

    def _pass_on(self, child: int) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._last[number] = now
            if child not in self._ended:
                with contextlib.suppress(OSError):  # it is another user's (sudo)
                    os.kill(child, number)

    def _look_at_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._signals.recv(256):
                if number not in PASSED_ON or self._is_session:
                    continue
                if self._due.pop(number, None) is None:
                    self._had.add(number)
                else:
                    self._last[number] = time.monotonic()
        with contextlib.suppress(ChildProcessError):  # none is left
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended[found[0]] = found[1]

    def _end_all(self) -> None:
        """All that the command has started, and itself: asked to, and then killed."""
        _signal_all(signal.SIGTERM)
        _signal_all(signal.SIGCONT)
        if self._none_left(time.monotonic() + GRACE_S, GRACE_S):
            return
        until = time.monotonic() + KILLED_S
        while time.monotonic() < until:
            _signal_all(signal.SIGKILL)
            if self._none_left(time.monotonic() + _AGAIN_S, _AGAIN_S):
                return

    def _none_left(self, until: float, left_s: float) -> bool:
        """Whether all have ended by then: each has an ancestor that is our child."""
        while left_s > 0:
            if not _has_children():
                return True
            select.select([self._signals], [], [], left_s)
            self._look_at_signals()
            left_s = until - time.monotonic()
        return not _has_children()


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _signal_all(number: int) -> None:
    """To all that descends from us."""
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
                if fields[_STATE] != b"X":  # a Z may be the first of threads that go on
                    parents[int(process.name)] = int(fields[_PARENT])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            os.kill(pid, number)


def _noted(number: int, frame: FrameType | None) -> None:
    """Who reads the wake-up's bytes handles it."""


if __name__ == "__main__":
    sys.exit(Supervisor(socket.socket(fileno=int(sys.argv[1]))).run(sys.argv[2:]))
