"""The client's methods for the inside of containers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from warmboot.client.decode import item, items
from warmboot.client.files.copies import chunks, here, pack, place, source, unpack
from warmboot.client.transport import Transport, segment
from warmboot.model.errors import NotFound

_IN_MEMORY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """What ``ps`` shows: columns, and a row for each process."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """``kind`` is ``changed``, ``added`` or ``deleted``."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class FileStatus:
    """``kind`` is ``file``, ``folder``, ``link`` or ``other``."""

    name: str
    kind: str
    size_bytes: int
    mode: int
    modified_at: datetime
    link_target: str = ""


class ContainerFiles:
    """``ref`` is a container's name, id, or the beginning of its id."""

    def __init__(self, link: Transport) -> None:
        self._link = link

    async def processes(self, ref: str, ps_args: str = "-ef") -> ProcessTable:
        """Its processes, as ``ps`` in its VM shows them with these arguments."""
        return item(ProcessTable, await self._link.get(_of(ref, "processes"), {"ps_args": ps_args}))

    async def changes(self, ref: str) -> list[Change]:
        """What is not as its image has it."""
        return items(Change, await self._link.get(_of(ref, "changes")))

    async def status(self, ref: str, path: str) -> FileStatus:
        """``NotFound`` if there is no such file. A link is not followed."""
        return item(FileStatus, await self._link.get(_of(ref, "file-status"), {"path": path}))

    async def read(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A file or folder as a tar, in which it has its own name."""
        async with self._link.stream(_of(ref, "files"), {"path": path}, {}) as response:
            async for chunk in response.aiter_raw():
                yield chunk

    async def write(
        self, ref: str, folder: str, tar: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        """Unpack ``tar`` in a folder that is there."""
        params = {"path": folder, **({"keep_owners": "true"} if keep_owners else {})}
        await self._link.upload(_of(ref, "files"), tar, None, method="PUT", params=params)

    async def copy_out(
        self,
        ref: str,
        source_path: str,
        target: Path | str,
        *,
        follow_link: bool = False,
        keep_owners: bool = False,
    ) -> int:
        """Copy ``source_path`` of the container to ``target`` here; the bytes of the tar between.

        ``NotFound``, ``InvalidRequest``, ``OSError``.
        """
        path, contents = source(source_path)
        status = await self.status(ref, path)
        if follow_link and status.kind == "link":
            path = str(PurePosixPath(path).parent / status.link_target)
            status = await self.status(ref, path)
        folder = status.kind == "folder"
        where = here(target)
        there = "" if not Path(where).exists() else "folder" if Path(where).is_dir() else "file"
        parent, name = place(
            str(where), there, str(target).endswith("/"), status.name, folder, contents
        )
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            async for chunk in self.read(ref, path):
                await asyncio.to_thread(file.write, chunk)
            size_bytes = file.tell()
            file.seek(0)
            await asyncio.to_thread(unpack, file, Path(parent), name, keep_owners)
        return size_bytes

    async def copy_in(
        self,
        ref: str,
        source_path: Path | str,
        target: str,
        *,
        follow_link: bool = False,
        keep_owners: bool = False,
    ) -> int:
        """Copy ``source_path`` to ``target`` in the container; the bytes of the tar between.

        ``NotFound``, ``InvalidRequest``, ``OSError``.
        """
        contents = str(source_path).endswith("/.")
        path = Path(source_path).resolve() if follow_link else Path(source_path).absolute()
        folder = path.is_dir() and not path.is_symlink()
        if not folder:
            path.lstat()  # FileNotFoundError
        wanted = "/" + target.strip("/")
        try:
            status = await self.status(ref, wanted)
            if status.kind == "link":
                wanted = str(PurePosixPath(wanted).parent / status.link_target)
                status = await self.status(ref, wanted)
            there = status.kind
        except NotFound:
            await self._link.get(f"/v1/containers/{segment(ref, 'container')}")  # is it there?
            there = ""
        parent, name = place(wanted, there, target.endswith("/"), Path(path).name, folder, contents)
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            await asyncio.to_thread(pack, file, path, name)
            size_bytes = file.tell()
            file.seek(0)
            await self.write(ref, parent, chunks(file), keep_owners=keep_owners)
        return size_bytes


def _of(ref: str, what: str) -> str:
    return f"/v1/containers/{segment(ref, 'container')}/{what}"
