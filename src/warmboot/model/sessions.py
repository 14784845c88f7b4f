"""What goes in and out of a container's processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class LogChunk:
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run in a running container, as ``docker exec``.

    ``detach``: only begin it; its session has no output and no exit code.
    """

    command: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    environment: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    detach: bool = False
