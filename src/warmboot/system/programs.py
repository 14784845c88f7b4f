"""The one place that runs programs to their end: found, bounded in time, gone when the caller is.

What is to outlive the manager (a VMM) is started by ``hypervisors/process.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from warmboot.model.errors import HostError, NotSupported, WarmbootError
from warmboot.system.concurrency import finish

_PACKAGES = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "chroot": "coreutils",
    "ctr": "containerd",
    "debugfs": "e2fsprogs",
    "dnsmasq": "dnsmasq-base",
    "dpkg-query": "dpkg",
    "e2fsck": "e2fsprogs",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "prlimit": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "systemctl": "systemd",
    "unshare": "util-linux",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_OURS = f"{sys.prefix}/bin"
"""Of the virtual environment that we run in: `make setup` has put Firecracker there."""

_STOP_TIMEOUT_S = 10.0
_QUOTED_LINES = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended, and what it wrote: in the order that it came, or each stream apart."""

    code: int
    output_bytes: bytes
    errors_bytes: bytes = b""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def output(self) -> str:
        return self.output_bytes.decode(errors="replace")

    @property
    def errors(self) -> str:
        return self.errors_bytes.decode(errors="replace")


def look_up(name: str, search_path: str | None = None) -> str | None:
    """The path of a program: on the path (``None``: ours), beside us, or in the system's
    folders.
    """
    places = (search_path, _OURS, _SBIN)
    return next((found for place in places if (found := shutil.which(name, path=place))), None)


def find_program(
    name: str | Path,
    *,
    search_path: str | None = None,
    failure: type[WarmbootError] = NotSupported,
) -> Path:
    """The path of a program; ``failure`` with the package to install if it is nowhere."""
    name = str(name)
    found = look_up(name, search_path)
    if found is not None:
        return Path(found)
    if os.sep in name:
        raise failure(
            f"the program {name} is not there or not executable", resolution="check its path"
        )
    raise failure(
        f"the program {name} is not installed",
        resolution=f"install it: apt-get install {_PACKAGES.get(name, name)}",
    )


async def run_program(
    name: str | Path,
    *arguments: str | Path,
    stdin: bytes = b"",
    on_line: Callable[[str], None] | None = None,
    errors_apart: bool = False,
    check: bool = True,
    timeout_s: float | None = 1800.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_session: bool = False,
    failure: type[WarmbootError] | None = None,
) -> Outcome:
    """Run a program to its end. ``on_line`` gets each line of its output as it comes.

    ``NotSupported`` when it is not there; ``HostError``, with its last lines, when it cannot be
    started, takes longer than ``timeout_s`` or, with ``check``, ends with another code than 0;
    ``failure`` in place of either. A program whose time is over or whose caller is cancelled is
    ended first: by SIGTERM, so that it can unmount and clean up, and at last by SIGKILL.
    """
    variables = {**os.environ, **(environment or {})}
    program = find_program(name, search_path=variables.get("PATH"), failure=failure or NotSupported)
    failure = failure or HostError
    command = [str(program), *map(str, arguments)]
    try:
        process = await anyio.open_process(
            command,
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE if errors_apart else STDOUT,
            env=variables,
            cwd=cwd,
            start_new_session=new_session,
        )
    except OSError as error:  # no descriptor, process or memory left
        raise failure(
            f"the program {name} cannot be started",
            details=str(error),
            resolution="look what uses up processes, memory or descriptors on this machine "
            "(`ulimit -a`, `free`)",
        ) from error
    output, errors = bytearray(), bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(
                _feed(process.stdin, stdin),
                _drain(process.stdout, output, on_line),
                _drain(process.stderr, errors, None),
            )
            code = await process.wait()
    except TimeoutError as error:
        raise failure(
            f"{name} took longer than {timeout_s:g} s", details=_last_lines(errors or output)
        ) from error
    finally:
        await finish(_end(process))
    if check and code != 0:
        raise failure(
            f"{name} failed with code {code}",
            details=_last_lines(errors or output),
            resolution="read the lines above; the full command was: " + " ".join(command),
        )
    return Outcome(code, bytes(output), bytes(errors))


async def _feed(stream: ByteSendStream | None, content: bytes) -> None:
    if stream is None:
        return
    with contextlib.suppress(anyio.BrokenResourceError, OSError):  # it did not want all of it
        await stream.send(content)
    await stream.aclose()


async def _drain(
    stream: ByteReceiveStream | None, into: bytearray, on_line: Callable[[str], None] | None
) -> None:
    if stream is None:
        return
    told = 0
    async for chunk in stream:
        into += chunk
        while on_line is not None and (at := into.find(b"\n", told)) >= 0:
            on_line(into[told:at].decode(errors="replace").rstrip())
            told = at + 1
    if on_line is not None and told < len(into):
        on_line(into[told:].decode(errors="replace").rstrip())


async def _end(process: Process) -> None:
    """Kindly at first; its pipes are closed in any case."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.aclose()


def _last_lines(written: bytearray) -> str:
    lines = written.decode(errors="replace").rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines[-_QUOTED_LINES:])
