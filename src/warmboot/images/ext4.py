"""Changes an ext4 file system without mounting it, with ``debugfs`` of e2fsprogs.

``debugfs`` ends with 0 whatever its commands came to. So what it has done is read back, and the
file system is checked as a whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from warmboot.model.errors import HostError
from warmboot.system.programs import run_program

_TIME_S = 1_600_000_000
"""Of all that is written: the same change of the same file system gives the same bytes."""

_ENTRY = re.compile(r"^/\d+/(\d+)/\d+/\d+/([^/]+)/", re.MULTILINE)
_FULL = os.strerror(errno.ENOSPC)


async def replace_folder(target: Path, folder: str, files: Sequence[Path], work: Path) -> None:
    """Have ``folder`` in the file system ``target`` hold exactly ``files``, root's and readable.

    ``work`` is an empty folder of the caller's. ``HostError`` if that was not reached, or if the
    file system is not clean afterwards; ``OSError`` if the disk below it is full.
    """
    new = work / "new"
    new.mkdir()
    for path in files:
        shutil.copyfile(path, new / path.name)
        (new / path.name).chmod(0o644)
    commands = [
        f"set_current_time {_TIME_S}",
        *await _removal(target, folder),
        f"cd {folder}",
        *(f"write {path.name} {path.name}" for path in files),
        "",
    ]
    (work / "commands").write_text("\n".join(commands))
    said = await run_program(
        "debugfs", "-w", "-f", work / "commands", target, cwd=new, environment={"LC_ALL": "C"}
    )
    if _FULL in said.output:
        raise OSError(errno.ENOSPC, _FULL, str(target))
    if await _content(target, folder, work / "seen") != await asyncio.to_thread(_tree, new):
        raise HostError(f"{folder} could not be replaced", details=said.output[-2000:])
    await run_program("e2fsck", "-f", "-n", target)


async def _removal(target: Path, folder: str) -> list[str]:
    """The commands that empty ``folder``."""
    commands = []
    listing = await run_program("debugfs", "-R", f"ls -p {folder}", target)
    for mode, name in _ENTRY.findall(listing.output):
        path = f'"{folder}/{name}"'
        if name in (".", ".."):
            continue
        if mode.startswith("04"):
            commands += [*await _removal(target, f"{folder}/{name}"), f"rmdir {path}"]
        else:
            commands.append(f"rm {path}")
    return commands


async def _content(target: Path, folder: str, seen: Path) -> dict[str, bytes]:
    """What ``folder`` holds; ``seen`` is made for it."""
    seen.mkdir()
    await run_program("debugfs", "-R", f"rdump {folder} .", target, cwd=seen)
    return await asyncio.to_thread(_tree, seen / Path(folder).name)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }
