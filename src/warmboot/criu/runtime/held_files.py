"""Files in a worker's mounts that it held open at its dump: which have changed since.

Mounts are not part of a checkpoint: the worker finds them as they are. CRIU refuses a file whose
size is another one, but not one that is only appended to, as a log, and none of the same size.

The script that CRIU runs while the processes stand still notes them, a line each.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmboot.criu.continuity import descendants
from warmboot.model.checkpoint import ChangedFile
from warmboot.system import procfs

_FORMAT = "%s %.9Y %n\\n"
_PROC = Path("/proc")


def held_in(mounts: Mapping[str, Path], pid: int, proc: Path = _PROC) -> dict[Path, str]:
    """The files in ``mounts`` that a container has open: where in /proc, and what it calls them."""
    found: dict[str, Path] = {}
    for one in (pid, *descendants(pid, proc)) if mounts else ():
        with contextlib.suppress(OSError):
            for number, path in procfs.open_files(proc / str(one)):
                link = proc / str(one) / "fd" / number
                if path not in found and _can_be_noted(path, mounts) and _is_file(link):
                    found[path] = link
    return {link: path for path, link in found.items()}


def command_to_note(held: Mapping[Path, str], into: Path) -> str:
    """A shell's command that notes the files that are held; one that was closed since is
    left out.
    """
    words = ["stat", "--dereference", "--printf", _FORMAT, *map(str, held)]
    return f"{shlex.join(words)} > {shlex.quote(str(into))} 2> /dev/null || :"


def write_noted(noted: Path, held: Mapping[Path, str]) -> None:
    """Have the paths in ``noted`` that they have for the worker."""
    lines = []
    for line in _lines(noted):
        size, changed, link = line.split(" ", 2)
        lines.append(f"{size} {changed} {held[Path(link)]}\n")
    noted.write_bytes(os.fsencode("".join(lines)))


def changed_since(noted: Path, mounts: Mapping[str, Path]) -> Sequence[ChangedFile]:
    """Those of the files in ``noted`` that are no longer as they were, in the ``mounts`` of now."""
    found = []
    for line in _lines(noted):
        size, changed, path = line.split(" ", 2)
        where = _on_host(path, mounts)
        if where is None:  # the manager was killed before it had put the path there
            continue
        now = _now(where)
        if now is None or (now.st_size, now.st_mtime_ns) != (int(size), _ns(changed)):
            told = os.fsencode(path).decode(errors="replace")
            found.append(ChangedFile(told, int(size), now.st_size if now else None))
    return found


def _lines(noted: Path) -> Iterator[str]:
    """A name may hold what ``splitlines`` takes for the end of a line."""
    with contextlib.suppress(FileNotFoundError):
        yield from procfs.lines(noted)


def _on_host(path: str, mounts: Mapping[str, Path]) -> Path | None:
    """Where a worker's file is on this machine, if it is in one of its mounts."""
    for target in sorted(mounts, key=len, reverse=True):
        if path == target or path.startswith(target.rstrip("/") + "/"):
            return mounts[target] / path[len(target) :].lstrip("/")
    return None


def _can_be_noted(path: str, mounts: Mapping[str, Path]) -> bool:
    return "\n" not in path and _on_host(path, mounts) is not None


def _is_file(link: Path) -> bool:
    with contextlib.suppress(OSError):
        found = link.stat()
        return stat.S_ISREG(found.st_mode) and found.st_nlink > 0
    return False


def _now(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return path.stat()
    return None


def _ns(seconds: str) -> int:
    whole, _, rest = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(rest.ljust(9, "0"))
