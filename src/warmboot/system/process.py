"""Runs the programs that build images, and turns their failures into our errors."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from warmboot.model.errors import HostError, NotSupported

_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "apt-get": "apt",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_STOP_TIMEOUT_S = 10.0


def find_tool(name: str) -> Path:
    """Where a program is; ``NotSupported`` with the package to install if it is nowhere."""
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        raise NotSupported(
            f"the program {name} is not installed",
            resolution=f"install it: apt-get install {_PACKAGES.get(name, name)}",
        )
    return Path(found)


async def run_tool(
    name: str,
    *arguments: str | Path,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float = 1800.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return its output (both streams, in order).

    ``HostError`` with its last lines when it fails or takes longer than ``timeout_s``. A
    cancelled call ends the program first.
    """
    command: Sequence[str] = [str(find_tool(name)), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
    )
    lines: deque[str] = deque(maxlen=4000)
    try:
        async with asyncio.timeout(timeout_s):
            assert process.stdout is not None
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                lines.append(line)
                if on_line:
                    on_line(line)
            code = await process.wait()
    except TimeoutError as error:
        raise HostError(
            f"{name} took longer than {timeout_s:.0f} s", details="\n".join(list(lines)[-10:])
        ) from error
    finally:
        await _end(process)
    if code != 0:
        raise HostError(
            f"{name} failed with code {code}",
            details="\n".join(list(lines)[-15:]),
            resolution="read the lines above; the full command was: " + " ".join(command),
        )
    return "\n".join(lines)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program that still runs: first kindly, so that it can unmount and clean up."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
