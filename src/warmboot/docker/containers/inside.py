"""What a Docker engine tells of the inside of a container: processes, changes, files."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from warmboot.docker.containers.times import moment
from warmboot.docker.containers.usage import stats_of
from warmboot.docker.errors import Fault
from warmboot.docker.requests import Requests
from warmboot.model.errors import Conflict, GuestError, InvalidRequest, NotFound, WarmbootError
from warmboot.model.tenants.container_options import Health
from warmboot.model.tenants.inside import (
    Change,
    ChangeKind,
    ContainerStats,
    FileKind,
    FileStatus,
    HealthProbe,
    HealthReport,
    ProcessTable,
)

CHUNK_BYTES = 256 << 10
_REPLAYED_S = 5.0
SILENCE_S = 300.0
"""How long an engine may be silent at a copy: an emulated one is slow to read a large folder."""

_KINDS = (ChangeKind.CHANGED, ChangeKind.ADDED, ChangeKind.DELETED)  # by Docker's numbers
_GO_FOLDER, _GO_LINK, _GO_ODD = 1 << 31, 1 << 27, 0x728_0000  # os.FileMode of Go
_STATUS = "X-Docker-Container-Path-Stat"


class Inside:
    """Part of ``DockerClient``; the errors are the same."""

    def __init__(self, ask: Requests) -> None:
        self._ask = ask

    async def processes(self, container: str, ps_arguments: str) -> ProcessTable:
        """What ``ps`` shows with those arguments. ``Conflict``; ``InvalidRequest`` by ``ps``."""
        found = await self._ask.json(
            "listing its processes",
            f"GET containers/{container}/top",
            params={"ps_args": ps_arguments},
            fault=_ps_fault,
        )
        rows = tuple(tuple(map(str, row)) for row in found.get("Processes") or ())
        return ProcessTable(tuple(map(str, found.get("Titles") or ())), rows)

    async def stats(self, container: str) -> ContainerStats:
        """What it uses; the engine looks twice for that, in a second or two. ``Conflict``."""
        return stats_of(
            await self._ask.json(
                "counting what it uses",
                f"GET containers/{container}/stats",
                params={"stream": "false"},
            )
        )

    async def health(self, container: str) -> HealthReport:
        """What its health check has found so far."""
        doing = "asking for the container's health"
        found = await self._ask.json(doing, f"GET containers/{container}/json")
        return health_of(found["State"].get("Health") or {})

    async def health_changes(self, container: str) -> AsyncGenerator[None, None]:
        """Once at first, then as often as its health may be another one."""
        filters = {"container": [container], "event": ["health_status"]}
        since_s = time.time() - _REPLAYED_S  # it begins to follow when it has answered already
        async with self._ask.answer(
            "following its health",
            "GET events",
            params={"filters": json.dumps(filters), "since": f"{since_s:.3f}"},
            lasts=True,
        ) as response:
            yield None
            async for _ in response.content:
                yield None

    async def changes(self, container: str) -> Sequence[Change]:
        """What is not as its image has it."""
        doing = "comparing its files with its image"
        found = await self._ask.json(doing, f"GET containers/{container}/changes")
        return [Change(str(one["Path"]), _KINDS[one["Kind"]]) for one in found or ()]

    async def file_status(self, container: str, path: str) -> FileStatus:
        """``NotFound`` if there is no such file."""
        # Not by HEAD: if that fails, nothing says why.
        async with self._archive(container, path, f"looking for {path}") as response:
            return file_status_of(response.headers.get(_STATUS, ""))

    async def read_files(self, container: str, path: str) -> AsyncGenerator[bytes, None]:
        """A file or folder as a tar, in which it has its own name. ``NotFound``."""
        async with self._archive(container, path, f"reading {path}") as response:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk

    def _archive(
        self, container: str, path: str, doing: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._ask.answer(
            doing,
            f"GET containers/{container}/archive",
            params={"path": path},
            fault=_missing(path),
            silence_s=SILENCE_S,
            lasts=True,
        )

    async def write_files(
        self, container: str, folder: str, tar: AsyncIterator[bytes], *, keep_owners: bool
    ) -> None:
        """Unpack ``tar`` in a ``folder`` that is there. ``NotFound``, ``InvalidRequest``.

        Nothing becomes a folder of what is a file, or the other way round. With ``keep_owners``
        files belong to whom the tar says; else to root.
        """
        params = {"path": folder, "noOverwriteDirNonDir": "1"}
        if keep_owners:
            params["copyUIDGID"] = "1"
        await self._ask.do(
            f"writing into {folder}",
            f"PUT containers/{container}/archive",
            params=params,
            data=tar,
            fault=_missing(folder),
            silence_s=SILENCE_S,
            lasts=True,
        )


def health_of(told: Mapping[str, Any]) -> HealthReport:
    """``GuestError`` if it makes no sense; nothing: there is no check."""
    try:
        probes = [
            HealthProbe(
                moment(str(one["Start"])),
                moment(str(one["End"])),
                int(one["ExitCode"]),
                str(one["Output"]),
            )
            for one in told.get("Log") or ()
        ]
        status = Health(told.get("Status") or Health.NONE)
        return HealthReport(status, int(told.get("FailingStreak") or 0), tuple(probes))
    except (ValueError, KeyError, TypeError) as error:
        raise GuestError(
            "Docker's answer about a health check is not understood", details=str(error)
        ) from error


def _ps_fault(message: str) -> WarmbootError | None:
    if "is not running" in message:
        return Conflict("the container is not running", details=message)
    if "ps:" in message or "error:" in message or "PID field" in message:
        return InvalidRequest(
            "`ps` does not take these options",
            details=message,
            resolution="give options of ps that show process ids, such as `-ef` or `aux`",
        )
    return None


def _missing(path: str) -> Fault:
    def fault(message: str) -> WarmbootError | None:
        text = message.lower()
        if any(words in text for words in ("no such file", "could not find the file")):
            return NotFound(f"there is no {path} in the container", details=message)
        if any(
            words in text
            for words in (
                "not a directory",
                "cannot overwrite",
                "read-only",
                "unexpected eof",
                "tar",
            )
        ):
            return InvalidRequest(
                f"it cannot be written to {path}",
                details=message,
                resolution="name a folder that is there and can be written to",
            )
        return None

    return fault


def file_status_of(header: str) -> FileStatus:
    """What Docker tells of a file in a header. ``GuestError``."""
    try:
        told: dict[str, Any] = json.loads(base64.b64decode(header))
        mode = int(told["mode"])
        return FileStatus(
            str(told["name"]),
            _kind(mode),
            int(told["size"]),
            mode & 0o777,
            moment(str(told["mtime"])),
            str(told.get("linkTarget") or ""),
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise GuestError(
            "Docker's answer about a file is not understood", details=header
        ) from error


def _kind(mode: int) -> FileKind:
    if mode & _GO_FOLDER:
        return FileKind.FOLDER
    if mode & _GO_LINK:
        return FileKind.LINK
    return FileKind.OTHER if mode & _GO_ODD else FileKind.FILE
