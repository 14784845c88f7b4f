"""``.seen.json``: records of file timestamps that make checks of immutable files cheap.

It has each file's size, inode and times as they were when its sum was last taken. The change time
is among them, as nobody can set it back. A hard link that comes or goes changes it, too: whoever
makes or removes one does so in ``relinking``, and the notes go with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

STAMPS_FILE = ".seen.json"
UNFINISHED = ".new"
"""How the name of a file in a snapshot's folder ends while it is written."""

Stamp = dict[str, int]
Stamps = dict[str, Stamp]


def stamp(path: Path) -> Stamp:
    status = path.stat()
    return {
        "size": status.st_size,
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def load_stamps(folder: Path) -> Stamps:
    """The note in ``folder``; empty when there is none, or none that can be read."""
    try:
        document = json.loads((folder / STAMPS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def save_stamps(folder: Path, stamps: Mapping[str, dict[str, int]]) -> None:
    """Store the stamps, which make the next check cheap; without them it takes the sums again."""
    temporary = folder / f"{STAMPS_FILE}{UNFINISHED}"
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(stamps))
            temporary.rename(folder / STAMPS_FILE)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def discard_stamps(folder: Path) -> None:
    """Remove the stamps of a folder, so that the next check takes all sums again."""
    (folder / STAMPS_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def relinking(file: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Note ``file`` anew where it was noted, when its links change within this context:
    its content is the same.
    """
    try:
        before = stamp(file)
    except OSError:  # there is none: nothing can come or go
        yield
        return
    yield
    for folder in folders:
        try:
            after = stamp(folder / file.name)
        except OSError:
            continue
        stamps = load_stamps(folder)
        only_links = before | {"ctime_ns": after["ctime_ns"]} == after
        if only_links and stamps.get(file.name) == before:
            save_stamps(folder, stamps | {file.name: after})
