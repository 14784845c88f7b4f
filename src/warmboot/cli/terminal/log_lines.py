"""``--tail`` of ``logs`` and ``worker logs``: how many lines from the end, as docker has it."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from warmboot.cli.drive import usage

Tail = Annotated[str, typer.Option("--tail", "-n", help="number of lines to show from the end")]
_COUNT = re.compile(r"-?[0-9]{1,18}")


def wanted_lines(tail: str) -> int | None:
    """``None`` for all of them: ``all``, or less than none."""
    if tail != "all" and not _COUNT.fullmatch(tail):
        raise usage("it takes a number, or all", "--tail")
    return None if tail == "all" or int(tail) < 0 else int(tail)
