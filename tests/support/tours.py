"""The commands of a document, as they stand there, and a shell that runs them in order.

    ```sh                                 a block: ``sh``, ``bash``, or ``console`` after its ``$``
    curl -s --data-binary @app.tar \\
        http://127.0.0.1:18080/v1/archives    one command, with the lines that belong to it
    ```
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```(sh|bash|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TIMEOUT_S = 300.0


def commands(text: str) -> list[str]:
    """Of all blocks in ``text``, comments left out."""
    return [one for kind, block in _BLOCK.findall(text) for one in _of_block(kind, block)]


def _of_block(kind: str, block: str) -> Iterator[str]:
    lines = block.splitlines()
    if kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    command = ""
    for line in lines:
        command += line
        if line.endswith("\\") or not _is_whole(command):
            command += "\n"
        else:
            if shlex.split(command, comments=True):
                yield command
            command = ""
    assert not command, f"a command without an end: {command}"


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation that goes on
        return False
    return True


def clean_environment(**more: str) -> dict[str, str]:
    """This process's, without settings of warmboot, and with the ``warmboot`` under test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WARMBOOT_", "MANAGER_"))}
    return {**kept, "PATH": f"{sys.prefix}/bin:{kept['PATH']}", **more}


async def walk(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What ``script`` says in ``folder``, each command before what it does; all must succeed."""
    log = folder / "said"
    with log.open("wb") as said:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"set -ex\n{script}"),
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(shell.wait(), TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    text = log.read_text()
    assert shell.returncode == 0, text
    return text
