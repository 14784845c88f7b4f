"""Standard input, output and error, whatever we were started with. Standard library only."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TextIO

UNREAD = 128 + signal.SIGPIPE
"""The exit code when nobody reads our output any more, as of a program that SIGPIPE has ended."""

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _StandardError(io.TextIOWrapper):
    """Standard error: if it cannot be written, the exit code is all that is told, as it would be.

    What it holds is dropped, or the interpreter would try again at its end, and exit with 120.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            _drop(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _drop(self)


def open_standard_streams() -> None:
    """Have all three. One that is closed becomes ``/dev/null``, or the next file would be it."""
    for descriptor, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # something else was closed, too
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    raw = io.FileIO(sys.stderr.fileno(), "w", closefd=False)
    sys.stderr = _StandardError(io.BufferedWriter(raw), sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        # What our output cannot show is shown escaped, and is no reason to end.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def drop_output() -> None:
    """What is still to be written to standard output goes nowhere: the interpreter would fail."""
    _drop(sys.stdout)


def _drop(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def drop_odd_sizes() -> None:
    """Remove what is no size of a terminal from the environment: libraries stumble over it."""
    for name in ("COLUMNS", "LINES"):
        text = os.environ.get(name, "")
        if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 10_000):
            os.environ.pop(name, None)


def is_text(value: str) -> bool:
    """Whether it was UTF-8, where it came from outside."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def as_shown(value: str) -> str:
    """``caf\\xe9`` for what is not UTF-8."""
    return os.fsencode(value).decode("utf-8", "backslashreplace")
