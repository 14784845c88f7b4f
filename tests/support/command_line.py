"""``warmboot …`` in this process: a twentieth of what a process of its own costs.

Its input is a pipe, its output files, and both are the standard ones' file descriptors as far as
it can tell. What is about signals, terminals or the end of the process needs a real one instead.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

from warmboot.cli.main import program

STDIN = 0
PROGRAM = program()
"""What ``main`` makes anew each time, and what takes longest of all."""


def run_here(
    words: tuple[str, ...], env: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. An exception that would be a traceback for its user is the caller's."""
    with (
        tempfile.TemporaryFile("w+", errors="backslashreplace") as out,
        tempfile.TemporaryFile("w+", errors="backslashreplace") as err,
        _environment(env),
        _input(stdin),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = _exit_code(words)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(words, code, *texts)


def _exit_code(words: tuple[str, ...]) -> int:
    try:
        PROGRAM(list(words), prog_name="warmboot")
    except SystemExit as end:  # what the interpreter makes of it
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(env)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _input(text: str) -> Iterator[None]:
    """``text`` is all that comes in; it has to fit a pipe."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        pipe.write(text)
    before, kept = sys.stdin, os.dup(STDIN)
    os.dup2(reader, STDIN)
    os.close(reader)
    try:
        with os.fdopen(STDIN, closefd=False) as sys.stdin:
            yield
    finally:
        sys.stdin = before
        os.dup2(kept, STDIN)
        os.close(kept)
