"""Installs the OCI runtime of workers where an engine finds it as long as there are workers.

One file, for an interpreter that is not in a virtual environment: both are needed at each start
of a worker, whatever becomes of the environment that has installed them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from warmboot.criu.kerndat.cache import KERNDAT, SHOW_KERNDAT
from warmboot.criu.runtime import program
from warmboot.criu.setup.runtime_script import SCRIPT
from warmboot.model.errors import HostError
from warmboot.system.files import write_atomically
from warmboot.system.programs import run_program

DEFAULT_RUNTIME = Path("/opt/warmboot/runtime/warmboot-runtime")
ASK_TIMEOUT_S = 30.0
_OPTIONS = "-IS"
_ANSWER = f"{program.VERSION} {program.STATE}"


async def install_runtime(path: Path = DEFAULT_RUNTIME) -> bool:
    """Have this version of the runtime at ``path``; whether that changed anything. ``HostError``.

    It replaces a file at once: a container that starts just now gets the old one or the new.
    """
    tried = []
    for interpreter in interpreters():
        content = text_for(interpreter)
        if _content(path) == content and await runs(path):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write_atomically(candidate, content, mode=0o755)
            if await runs(candidate):
                candidate.replace(path)
                return True
        finally:
            candidate.unlink(missing_ok=True)
        tried.append(str(interpreter))
    raise HostError(
        "the runtime of workers cannot be installed",
        details=f"no Python runs it: tried {', '.join(tried) or 'none'}",
        resolution="install Python 3.11 or newer for the whole machine (`apt-get install python3`)",
    )


async def runs(path: Path) -> bool:
    """Whether what is at ``path`` is this version of the runtime, and can be executed."""
    if not os.access(path, os.X_OK):
        return False
    outcome = await run_program(path, program.DESCRIBE, check=False, timeout_s=ASK_TIMEOUT_S)
    return outcome.ok and outcome.output.strip() == _ANSWER


def interpreters() -> Iterator[Path]:
    """The machine's own, then the one behind our environment."""
    for path in ("/usr/bin/python3", getattr(sys, "_base_executable", "")):
        if path and Path(path).exists():
            yield Path(path)


def text_for(interpreter: Path) -> str:
    """One file: to the interpreter, the shell's part is a string that nobody needs."""
    words = {
        "PYTHON": f"{interpreter} {_OPTIONS}",
        "STATE": program.STATE,
        "EMPTY": program.EMPTY,
        "SHOW_KERNDAT": shlex.join(SHOW_KERNDAT),
        "KERNDAT": KERNDAT,
    }
    script = SCRIPT
    for word, text in words.items():
        script = script.replace(word, text)
    return f"#!/bin/sh\n''':'\n{script}'''\n{Path(program.__file__).read_text()}"


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
