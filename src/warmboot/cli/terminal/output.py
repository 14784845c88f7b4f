"""Output of commands: tables that fit the terminal, JSON for programs, ages and sizes for people.

Tables go to stdout without borders. On a terminal, cells that do not fit end in ``…``; in a pipe
nothing is cut.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 10_000
GAP = 2


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
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    keep: Sequence[str] = (),
    cut: bool = True,
) -> None:
    """A table; the columns in ``keep`` are cut only when nothing else is left to cut."""
    listed = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*listed, strict=True)]
    terminal = sys.stdout.isatty()
    if terminal and cut:
        kept = {number for number, name in enumerate(columns) if name in keep}
        widths = _fitted(widths, [len(name) for name in columns], kept, terminal_width())
    for number, row in enumerate(listed):
        cells = (_cell(cell, width) for cell, width in zip(row, widths, strict=True))
        line = (" " * GAP).join(cells).rstrip()
        print(f"\x1b[1m{line}\x1b[0m" if terminal and number == 0 else line)


def _cell(text: str, width: int) -> str:
    return f"{text:<{width}}" if len(text) <= width else text[: max(0, width - 1)] + "…"


def _fitted(widths: list[int], headers: list[int], kept: set[int], room: int) -> list[int]:
    """Take from the widest column, down to its header; from a kept one only at last."""
    fitted = list(widths)
    too_wide = sum(fitted) + GAP * (len(fitted) - 1) - room
    for floors in (headers, [4] * len(fitted)):
        for spared in (kept, set[int]()):
            while too_wide > 0:
                free = [
                    number
                    for number, width in enumerate(fitted)
                    if number not in spared and width > floors[number]
                ]
                if not free:
                    break
                fitted[max(free, key=lambda number: fitted[number])] -= 1
                too_wide -= 1
    return fitted


def terminal_width() -> int:
    """Columns of the terminal; without end when there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """A name and its value a line; empty ones are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {hanging(value, width + GAP)}")


def hanging(text: str, indent: int) -> str:
    """``text`` that begins in column ``indent`` and goes on there; a long word is not broken."""
    if not sys.stdout.isatty():
        return text
    room = max(20, terminal_width() - indent)
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
    return ("\n" + " " * indent).join(lines)


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


def ago(moment: datetime | None, told: Callable[[datetime | None], str] = age) -> str:
    """``3 minutes ago``, or ``never``."""
    return told(moment) if moment is None else f"{told(moment)} ago"


def brief_age(moment: datetime | None) -> str:
    """A duration as ``3m``, for narrow terminals."""
    if moment is None:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(size_bytes: float | None) -> str:
    """A number of bytes as ``512.0 MiB``."""
    if size_bytes is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def upload_total(file: Path) -> str:
    """`` of 512.0 MiB``; nothing for a pipe, whose size nobody knows."""
    return f" of {size(file.stat().st_size)}" if file.is_file() else ""


def with_reason(state: str, error: Mapping[str, Any] | None) -> str:
    """A state of a list, and why it is so: ``Failed: there is no image x``."""
    brief = " ".join(str((error or {}).get("brief") or "").split())
    return f"{state}: {brief}" if brief else state


def short(identifier: str) -> str:
    """The beginning of an id that is shown; the API finds the rest."""
    return identifier[:8]
