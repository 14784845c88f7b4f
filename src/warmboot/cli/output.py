"""What is shown: tables that fit the terminal, JSON for programs, ages and sizes for people.

Tables go to stdout without borders. On a terminal, cells that do not fit end in ``…``; in a pipe
nothing is cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 10_000


def console(*, stderr: bool = False) -> Console:
    """Rich's console on stdout or stderr; on a pipe it cuts nothing."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else UNLIMITED
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """Indented on a terminal, one line in a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")
    sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, keep: Sequence[str] = ()
) -> None:
    """A table; the columns in ``keep`` are never cut."""
    listed = [tuple(row) for row in rows]
    if not sys.stdout.isatty():
        _print_uncut([tuple(columns), *listed])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(columns):
        widest = max((len(row[number]) for row in listed), default=0)
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            min_width=max(widest, len(name)) if name in keep else None,
        )
    for row in listed:
        table.add_row(*row)
    console().print(table)


def _print_uncut(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """A name and its value a line; empty ones are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """``3 minutes``, as docker says it."""
    if moment is None:
        return "never"
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds // length
        if count >= (2 if unit != "day" else 1) or (count == 1 and unit != "minute"):
            return f"{count} {unit}{'s' if count > 1 else ''}"
        if count == 1:
            return "a minute"
    if seconds < 1:
        return "under a second"
    return f"{seconds} second{'s' if seconds > 1 else ''}"


def size(size_bytes: float | None) -> str:
    """``512.0 MiB``."""
    if size_bytes is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def short(identifier: str) -> str:
    """The beginning of an id that is shown; the API finds the rest."""
    return identifier[:8]
