"""CRIU's log, copied while the engine keeps it.

containerd deletes the log of a failed dump together with CRIU's working folder, and that of a
failed restore together with the container's bundle, before the engine answers. A file that is open
outlives its name, so it is opened as soon as it is there.

It is looked for every few milliseconds, and only while the engine's call runs: the folders in
which it appears are themselves made and removed by that call, so a watch would have to follow a
chain of them and would miss what is made before the next watch stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from warmboot.system.concurrency import end

LOOK_EVERY_S = 0.005
MAX_LOG_BYTES = 4 << 20
MAX_LINES = 12
_VERSION = re.compile(rb"(?:Version: |CRIU )(\d+\.\d+(?:\.\d+)?)")
_HARMLESS = ("Can't setup RLIMIT_NOFILE for self",)
"""CRIU calls it an error, goes on, and succeeds."""

_ERROR = re.compile(r"^\(\d+\.\d+\)\s*(?:\d+:\s*)?(Error .*)$")


class CriuLog:
    """What CRIU wrote during one call. Empty when the log was not seen."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def hold(self, path: Path) -> bool:
        """Open ``path`` if it is there and not yet held; whether anything is held."""
        if path not in self._files:
            with contextlib.suppress(OSError):
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return bool(self._files)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def text(self) -> str:
        parts = [os.pread(descriptor, MAX_LOG_BYTES, 0) for descriptor in self._files.values()]
        return b"".join(parts).decode(errors="replace")

    def errors(self) -> tuple[str, ...]:
        """The lines in which CRIU says what went wrong, without time stamps; the last ones."""
        found = [match[1] for line in self.text().splitlines() if (match := _ERROR.match(line))]
        told = [line for line in found if not any(text in line for text in _HARMLESS)]
        return tuple(told[-MAX_LINES:])

    def version(self) -> str:
        """The version of the CRIU that wrote it; empty when unknown."""
        for descriptor in self._files.values():
            if match := _VERSION.search(os.pread(descriptor, 4096, 0)):
                return match[1].decode()
        return ""


@contextlib.asynccontextmanager
async def holding_log(candidates: Sequence[Path]) -> AsyncIterator[CriuLog]:
    """Watch for the log at ``candidates`` while the body runs.

    A file that was there before is not this call's and is left alone.
    """
    log = CriuLog()
    fresh = [path for path in candidates if not path.exists()]

    async def look() -> None:
        while not any(log.hold(path) for path in fresh):  # noqa: ASYNC110 (why: see above)
            await asyncio.sleep(LOOK_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        yield log
    finally:
        await end(looking)
        log.close()
