"""Folders of this machine that may be given to a VM, and that it gets without asking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import structlog

from warmboot.host.folders.may_read import may_read
from warmboot.model.errors import HostError, InvalidRequest, WarmbootError
from warmboot.model.tenants.container_options import ContainerOptions, MountType
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.tenants.mounted_folders import IN_GUEST, folder_of
from warmboot.system.concurrency import in_own_thread

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_TIMEOUT_S = 20.0

_NEVER = ("/dev", "/proc", "/sys")
"""What is in them are no files, and some of it leads out."""


def shared_folders(said: str, setting: str) -> tuple[HostFolder, ...]:
    """``DIR[:ro],…``, absolute paths. ``InvalidRequest``. Whether they are there is seen when an
    engine is made."""
    folders: dict[str, HostFolder] = {}
    for word in filter(None, (word.strip() for word in said.split(","))):
        path, colon, how = word.rpartition(":")
        if not colon or how not in ("ro", "rw"):
            path, how = word, "rw"
        if not path.startswith("/") or path in folders:
            why = "no absolute path" if not path.startswith("/") else "named twice"
            raise _refused(setting, f"{path!r} is {why}")
        folders[path] = HostFolder(path, how == "ro", optional=True)
    try:
        check_nested(list(folders.values()))
    except InvalidRequest as error:
        raise _refused(setting, f"{error.brief}: {error.details}") from error
    if folders and os.geteuid() != 0:
        raise _refused(setting, "only a manager that runs as root can give folders to engines")
    return tuple(folders.values())


def _refused(setting: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{setting} cannot be used: {why}",
        details="folders are given as DIR or DIR:ro, separated by commas",
        resolution="correct the environment variable",
    )


async def shared_with(
    uid: int, shared: Sequence[HostFolder], asked: Collection[HostFolder]
) -> Sequence[HostFolder]:
    """Those of the shared folders that this user gets: what is there, and may be read. For what is
    asked for, and what is in it, it counts how it is asked for.
    """
    folders: dict[str, HostFolder] = {}
    for folder in shared:
        try:
            one = await looked(partial(found, folder))
            if any(PurePosixPath(one.path).is_relative_to(other.path) for other in asked):
                continue
            if await may_read(uid, one.path):
                folders.setdefault(one.path, one)
        except (InvalidRequest, HostError) as error:
            log.warning("a shared folder is not given", folder=folder.path, error=error.brief)
    return tuple(folders.values())


async def looked(look: Callable[[], T]) -> T:
    """What it finds in file systems of this machine. ``HostError`` where one does not answer, which
    keeps nobody else waiting."""
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            return await in_own_thread(look, "folders")
    except TimeoutError as error:
        raise HostError(
            "a file system of this machine does not answer",
            details=f"folders in it were looked for, and not found within {LOOK_TIMEOUT_S:g} s",
            resolution="look whether its server is there (`findmnt -t nfs,nfs4,cifs,fuse`)",
        ) from error


def bound_by(options: ContainerOptions) -> Sequence[str]:
    """The paths of this machine that a container mounts."""
    return [one.source for one in options.mounts if one.type is MountType.BIND]


def places_of(
    sources: Collection[str], given: Sequence[HostFolder]
) -> Mapping[str, tuple[HostFolder, str]]:
    """In which folder each is, and its name in the VM. ``InvalidRequest`` for one that is in none
    of those given, or is not there. Blocks."""
    places: dict[str, tuple[HostFolder, str]] = {}
    for source in sources:
        place = folder_of(source, given)
        if place is None:
            seen = ", ".join(one.path for one in given)
            raise InvalidRequest(
                f"{source} cannot be mounted",
                details=f"of this machine's folders the container sees only what is in {seen}"
                if given
                else "the container is in a VM, which does not see this machine's folders",
                resolution="give it the folder (`--folder DIR`), have the manager share it with "
                "all (MANAGER_SHARED_FOLDERS), or use a volume (-v NAME:/path)",
            )
        try:
            Path(source).stat()
        except OSError as error:
            raise InvalidRequest(
                f'invalid mount config for type "bind": bind source path does not exist: {source}',
                details=os.strerror(error.errno or 0),
                resolution="make it first; it is not made for you",
            ) from error
        places[source] = place
    return places


@contextlib.contextmanager
def told_as_here(folders: Sequence[HostFolder]) -> Iterator[None]:
    """What a VM's Docker says of these folders has the names that they have on this machine."""
    try:
        yield
    except WarmbootError as error:
        for folder in folders:
            place = f"{IN_GUEST}/{folder.id}"
            if place in error.details:
                error.details = error.details.replace(place, folder.path)
                if "stale" in error.details.lower():
                    error.resolution = (
                        f"{folder.path} is gone, or is another folder now: put it back and try "
                        "again, or remove the container and run it anew"
                    )
        raise


def check_nested(folders: Sequence[HostFolder]) -> None:
    """``InvalidRequest`` for one that would be read-only by its own name alone."""
    for inner in folders:
        for outer in folders:
            if (
                inner.read_only
                and not outer.read_only
                and PurePosixPath(inner.path).is_relative_to(outer.path)
            ):
                raise InvalidRequest(
                    f"the folder {inner.path} cannot be read-only",
                    details=f"it is in {outer.path}, which is given to be written to",
                    resolution=f"give {outer.path}:ro, or only folders that are not in each other",
                )


def found(folder: HostFolder) -> HostFolder:
    """By the path that leads there through no link. Blocks."""
    try:
        path = str(Path(folder.path).resolve())
        found = Path(path).stat()
        path.encode()  # as the guest is told of it, and the database
    except (OSError, RuntimeError, ValueError) as error:  # the second for links that go in circles
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise InvalidRequest(
            f"the folder {folder.path} cannot be given to a VM",
            details=why,
            resolution="give one that root may look into: not of FUSE without allow_other, nor of "
            "an NFS server that squashes root"
            if isinstance(error, PermissionError) and os.geteuid() == 0
            else "give one that exists on the manager's machine",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(
            f"{folder.path} is no folder", resolution="give the folder that it is in"
        )
    if path == "/" or any(PurePosixPath(path).is_relative_to(one) for one in _NEVER):
        raise InvalidRequest(
            f"the folder {path} is never given to a VM",
            details="it is, or has in it, what the kernel shows of this machine",
            resolution="give the folder that has the files which are needed",
        )
    return replace(folder, path=path)
