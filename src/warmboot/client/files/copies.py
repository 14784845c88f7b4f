"""Files in and out of containers, by the rules of ``docker cp``.

    ends in ``/.``          of a folder: what is in it, and not the folder itself
    target is not there     the copy gets its name; the folder it would be in must be there
    target is a folder      the copy is put into it, under its own name
    target is a file        a file replaces it; a folder is refused

What a container gives is not to be trusted: it is unpacked by ``tarfile``'s filter ``data`` (with
``keep_owners``: ``tar``), and nothing of it is written outside of the copy.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import IO

from warmboot.model.errors import InvalidRequest, NotSupported

CHUNK_BYTES = 1024 * 1024


def source(text: str) -> tuple[str, bool]:
    """The absolute path that is meant, and whether only what is in it is."""
    contents = text.endswith("/.")
    return "/" + text.removesuffix("/.").strip("/"), contents


def here(target: Path | str) -> Path:
    """The absolute path of this machine that is meant."""
    return Path(str(target).rstrip("/") or "/").absolute()


def place(
    target: str, there: str, as_folder: bool, name: str, folder: bool, contents: bool
) -> tuple[str, str]:
    """The folder to unpack in, and the name that the copy has there; ``.``: none of its own.

    ``there`` is what ``target`` is (empty: it is not there), ``as_folder`` whether it was written
    as one, ``name`` the source's, ``folder`` whether that is one. ``InvalidRequest``.
    """
    if there == "folder":
        return target, "." if folder and contents else name
    if there and folder:
        raise InvalidRequest(
            f"a folder cannot be copied to {target}, which is a file",
            resolution="name a folder, or a path that is not there",
        )
    if as_folder and not folder:
        raise InvalidRequest(
            f"there is no folder {target}",
            resolution="make it first, or name the file that the copy shall be",
        )
    path = PurePosixPath(target)
    return str(path.parent), path.name


def pack(file: IO[bytes], path: Path, name: str) -> None:
    """Write ``path`` as a tar, in which it is called ``name``."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(path, arcname=name)


async def chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The rest of a file, piece by piece."""
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


def unpack(file: IO[bytes], folder: Path, name: str, keep_owners: bool) -> None:
    """What the tar has, below ``folder``, its first file or folder being called ``name`` there."""
    if not hasattr(tarfile, "data_filter"):
        raise NotSupported(
            "this Python cannot unpack safely what a container gives",
            details="it has no filters of tarfile: they came with 3.11.4",
            resolution="write a tar instead: `warmboot cp CONTAINER:PATH - > FILE`",
        )
    if not folder.is_dir():
        raise InvalidRequest(f"there is no folder {folder}", resolution=f"mkdir -p {folder}")
    with tarfile.open(fileobj=file, mode="r|") as tar:
        first = tar.next()
        if first is None:
            return
        if first.isdir():
            top = folder / name
            top.mkdir(exist_ok=True)
            _extract(tar, _below(first, ""), top, keep_owners)
            for member in tar:
                _extract(tar, _below(member), top, keep_owners)
        else:
            first.name = name
            _extract(tar, first, folder, keep_owners)


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, keep_owners: bool
) -> None:
    try:
        tar.extract(
            member, folder, numeric_owner=True, filter=_as_owned if keep_owners else _as_own
        )
    except tarfile.FilterError as error:
        raise InvalidRequest(
            f"{member.name} was not copied",
            details=str(error),
            resolution="copy the parts that you need one by one, or a tar: "
            "`warmboot cp CONTAINER:PATH - > FILE`",
        ) from error


def _as_owned(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    if member.islnk():
        tarfile.data_filter(member, folder)  # the other one lets it be a link to anything
    return tarfile.tar_filter(member, folder)


def _as_own(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """A link is copied as it is, wherever it leads: nothing is written through it."""
    if not member.issym():
        return tarfile.data_filter(member, folder)
    link = tarfile.tar_filter(member, folder)
    return link.replace(uid=None, gid=None, uname=None, gname=None, deep=False)  # type: ignore[arg-type]


def _below(member: tarfile.TarInfo, name: str | None = None) -> tarfile.TarInfo:
    """As it is called below the tar's first folder."""

    def moved(path: str) -> str:
        return path.strip("/").partition("/")[2]

    member.name = moved(member.name) if name is None else name or "."
    if member.islnk():
        member.linkname = moved(member.linkname)
    return member
