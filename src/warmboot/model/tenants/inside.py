"""What can be seen inside a container: its processes, its files and what it has changed of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """What ``ps`` shows of a container's processes: columns, and one row for each process."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class ChangeKind(StrEnum):
    CHANGED = "changed"
    ADDED = "added"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """A file or folder that is not as the container's image has it."""

    path: str
    kind: ChangeKind


class FileKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file in a container. ``mode``: its permissions; ``link_target``: where a link leads."""

    name: str
    kind: FileKind
    size_bytes: int
    mode: int
    modified_at: datetime
    link_target: str = ""
