"""``warmboot …`` in a process of its own that need not read Python's modules again.

    code, out, err = await run_forked(("ps", "-a"), environment, b"", timeout_s=60)

A command line starts in half a second of processor time, nearly all of it spent on reading modules.
A process that has read them (``python -m tests.support.command_forks``) forks one for each command,
with its standard streams, environment and words, in the network namespace of who wants it run. What
runs there is ``warmboot``'s own ``main``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from warmboot.cli.entry import main
from warmboot.system.in_namespace import enter

_REQUEST_BYTES = 1 << 17
_PIPE_BYTES = 1 << 16
_NETWORK = Path("/proc/thread-self/ns/net")
_READ_LATE = ("anyio._backends._asyncio", "httpcore", "rich.live", "rich.table", "typer.rich_utils")
"""What libraries read when they are first used."""


async def run_forked(
    words: Sequence[str], environment: Mapping[str, str], stdin: bytes, timeout_s: float
) -> tuple[int, str, str]:
    """Its exit code and what it said; it is killed when the time is over.

    ``stdin`` has to fit a pipe.
    """
    assert len(stdin) <= _PIPE_BYTES, "nobody would read it while it is written"
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with theirs, os.fdopen(reader):
            with os.fdopen(writer, "wb") as given:
                given.write(stdin)
            request = json.dumps([list(words), dict(environment)]).encode()
            with os.fdopen(os.open(_NETWORK, os.O_RDONLY)) as network:
                fds = [reader, *(one.fileno() for one in (out, err, theirs, network))]
                socket.send_fds(_forking(), [request], fds)
        told, connection = await asyncio.open_unix_connection(sock=ours)
        try:
            async with asyncio.timeout(timeout_s):
                code = int(await told.readline())
        finally:
            connection.close()  # which kills it, if it has not ended
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return code, texts[0], texts[1]


@cache
def _forking() -> socket.socket:
    """A connection to the process that forks; what it has forked ends with it, and it with us."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.command_forks"],
            cwd=Path(__file__).parents[2],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


def _read_modules() -> None:
    """Those of the command line and of the client; ``serve`` reads a manager's itself."""
    for name in ("warmboot.cli", "warmboot.client"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in _READ_LATE:
        importlib.import_module(name)
    gc.freeze()  # or each fork would look through all of it at its end


def _serve(control: socket.socket) -> list[str]:
    """Fork for each request. In a fork its words are returned, and all is as when one starts."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        waited_for = [one for pidfd, (_, asker) in running.items() for one in (pidfd, asker)]
        readable, _, _ = select.select([control, *waited_for], [], [])
        for pidfd, (pid, asker) in list(running.items()):
            if pidfd in readable:
                _, status = os.waitpid(pid, 0)
                del running[pidfd]
                os.close(pidfd)
                with asker, contextlib.suppress(ConnectionError):  # its time may just be over
                    asker.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            elif asker in readable:  # it has gone
                os.kill(pid, signal.SIGKILL)
        if control not in readable:
            continue
        request, fds, *_ = socket.recv_fds(control, _REQUEST_BYTES, 5)
        if not request:
            for pid, _ in running.values():
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        *streams, answer, network = fds
        asker = socket.socket(fileno=answer)
        pid = os.fork()
        if pid == 0:
            # A test may have moved there.
            if not os.path.sameopenfile(network, os.open(_NETWORK, os.O_RDONLY)):
                enter(Path(f"/proc/self/fd/{network}"))
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for held in (control, asker, *(one for _, one in running.values())):
                held.detach()
            os.closerange(len(streams), 1 << 16)
            words, environment = json.loads(request)
            os.environ.clear()
            os.environ.update(environment)
            return list(words)
        for passed_on in (*streams, network):
            os.close(passed_on)
        running[os.pidfd_open(pid)] = (pid, asker)


if __name__ == "__main__":
    _read_modules()
    sys.argv[:] = ["warmboot", *_serve(socket.socket(fileno=0))]
    main()
