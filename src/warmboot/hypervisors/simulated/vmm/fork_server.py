"""Forks the processes of simulated VMs: all of them share a program that was read once.

    driver ── arguments, log ──▶ fork ──▶ the VM, in a session and with a command line of its own
           ◀─ pid, its pidfd ───┘

The VMs outlive this process, which ends with the driver's. A fork whose driver is gone ends before
it begins, as nobody would look for it; from then on it is found by its command line.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

MAX_ORDER_BYTES = 1 << 17
_ARG_START, _ARG_END = 45, 46
"""Of what follows the name in ``/proc/PID/stat``."""

_START_TIME = 19


def serve(driver: socket.socket) -> list[str]:
    """Return in each fork, with its arguments. The server itself ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    os.chdir("/")
    gc.collect()
    gc.freeze()  # what it passes over stays shared
    while order := _next_order(driver):
        wanted = json.loads(order)
        gate, gate_opens = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_opens)
            _begin(wanted, driver, gate)
            return list(wanted["arguments"])
        os.close(gate)
        _answer(driver, pid)
        os.close(gate_opens)  # not before: it is there as long as it is looked at
    sys.exit()


def _next_order(driver: socket.socket) -> bytes:
    try:
        return driver.recv(MAX_ORDER_BYTES)
    except ConnectionError:  # the driver's process ended before it had read an answer
        return b""


def _answer(driver: socket.socket, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    answer = {"pid": pid, "start_time_ticks": int(_stat(pid)[_START_TIME])}
    try:
        socket.send_fds(driver, [json.dumps(answer).encode()], [pidfd])
    except ConnectionError:  # the fork sees it, too
        pass
    finally:
        os.close(pidfd)


def _begin(wanted: dict[str, object], driver: socket.socket, gate: int) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _show_command([*sys.orig_argv[:4], *wanted["arguments"]])  # type: ignore[misc]
    os.read(gate, 1)
    os.close(gate)
    if _hung_up(driver):
        os._exit(0)
    driver.close()
    log = os.open(str(wanted["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)


def _hung_up(driver: socket.socket) -> bool:
    looked_at = select.poll()
    looked_at.register(driver, 0)
    return any(event & select.POLLHUP for _, event in looked_at.poll(0))


def _show_command(command: Sequence[str]) -> None:
    """Write it over our own, which is long enough (proc(5), ``cmdline``)."""
    fields = _stat(os.getpid())
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    words = b"".join(os.fsencode(word) + b"\0" for word in command)[: end - start - 1]
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(words.ljust(end - start, b"\0"))


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
