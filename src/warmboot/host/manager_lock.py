"""Locks that allow one manager at a time on a storage root, a database file and a network prefix.

    <root>/manager.lock                    all that lies below the root
    <database file>.lock                   an SQLite file, wherever it lies
    /run/warmboot/network-<prefix>.lock    namespaces, links and rules of that prefix

They are taken before anything is touched. A lock (flock(2)) belongs to an open file: it goes by the
inode, whatever path leads there, and ends with the process, ``kill -9`` included. The descriptor is
closed on exec, so VMMs and name servers, which outlive the manager, do not hold it. In the file
stands who holds it. After the manager's end it says whose the prefix was: VMs that still run in
networks of that prefix are that storage root's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from warmboot.codec import CodecError, decode
from warmboot.host.network.namespace_processes import NamespaceProcess, namespace_processes
from warmboot.model.errors import Conflict, DiskFull, HostError, WarmbootError
from warmboot.system.disks import os_error
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

LOCK_FILE = "manager.lock"
RUN_DIR = Path("/run/warmboot")
_MOST_BYTES = 4096
_LOOK_AGAIN_S = 0.02
_PASSING_S = 0.5
"""The last command that a manager ran in a namespace may end after it, and is no VM."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, or was the last to. ``root_inode`` tells the root whatever its path is."""

    pid: int
    since: str
    url: str
    root: str
    root_inode: tuple[int, int]

    def __str__(self) -> str:
        return f"pid {self.pid}, since {self.since}, {self.url}, storage root {self.root}"


@contextlib.contextmanager
def only_manager(
    root: Path, url: str, *, prefix: str | None = None, database: Path | None = None
) -> Iterator[None]:
    """Hold all of them; ``Conflict``, within a second, with who holds one. Blocks.

    ``prefix`` is ``None`` for a manager without networks.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    names = {LOCK_FILE} if database is None else {LOCK_FILE, f"{database.name}.lock"}
    with contextlib.ExitStack() as locks:
        new, stat = _make(root)
        us = Holder(os.getpid(), since, url, str(root), (stat.st_dev, stat.st_ino))
        # Until we have its lock the root may be another's, which came at the same moment.
        take = [_take(locks, root / LOCK_FILE, f"on the storage root {root}")]
        with on_failure(lambda: _remove_new(root, new, names)):
            if database is not None:
                found = database.resolve()
                path = found.with_name(f"{found.name}.lock")
                take.append(_take(locks, path, f"with the database {database}"))
                _check_one_name(found)
            if prefix is not None:
                path = run_dir() / f"network-{prefix}.lock"
                fd = _take(locks, path, f"with the network prefix {prefix!r}")
                _check_networks(prefix, us, _read(fd))
                take.append(fd)
        for fd in take:
            _tell(fd, us)
        yield


def _make(root: Path) -> tuple[list[Path], os.stat_result]:
    """The folders that were not there, from the root upwards, and the root's own data."""
    new = [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        return new, root.stat()
    except OSError as error:
        raise _unusable(root, error) from error


def _remove_new(root: Path, new: list[Path], locks: Collection[str]) -> None:
    """A root that is new goes again, if nothing but locks came into it."""
    with contextlib.suppress(OSError):  # somebody else's by now
        left = list(root.iterdir()) if new else []
        if all(path.name in locks for path in left):
            for path in left:
                path.unlink()
            for folder in new:
                folder.rmdir()


def _check_one_name(database: Path) -> None:
    """``Conflict`` if the file has more names: its locks and its journal lie beside each of them.

    So whoever comes by another name sees neither this manager nor what a killed one had written.
    """
    try:
        names = database.stat().st_nlink
    except OSError:
        return  # it is not there yet; what else is wrong with it is told when it is opened
    if names > 1:
        raise Conflict(
            f"the database {database} has more than one name",
            details=f"the file has {names} hard links; by another name, another manager "
            "could use it, and SQLite would not find its journal",
            resolution=f"keep one (`find FOLDER -samefile {database}` finds the others), or make a "
            "separate copy (`cp`) for each, while no manager is running",
        )


def run_dir() -> Path:
    """The same for all managers that may make networks; a user's own where ``/run`` is not ours."""
    with contextlib.suppress(OSError):
        RUN_DIR.mkdir(mode=0o755, exist_ok=True)
    if os.access(RUN_DIR, os.W_OK):
        return RUN_DIR
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = Path(runtime) / "warmboot" if runtime else _below_tmp()
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        if own.lstat().st_uid != os.geteuid():
            raise HostError(
                f"{own} belongs to another user", resolution="set XDG_RUNTIME_DIR, or remove it"
            )
    except OSError as error:
        raise os_error(error) from error
    return own


def _below_tmp() -> Path:
    return Path(tempfile.gettempdir()) / f"warmboot-{os.geteuid()}"


def _take(locks: contextlib.ExitStack, path: Path, what: str) -> int:
    """An open file that is locked, and still the one that the path names."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as error:
            raise _unusable(path.parent, error) from error
        except OSError as error:
            raise os_error(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _names(path, fd):  # somebody has removed it: the next one would not see ours
                os.close(fd)
                continue
        except BlockingIOError:
            holder = _read(fd)
            os.close(fd)
            raise _refusal(path, what, holder) from None
        except OSError as error:
            os.close(fd)
            raise os_error(error) from error
        locks.callback(os.close, fd)
        return fd


def _unusable(root: Path, error: OSError) -> WarmbootError:
    told = os_error(error)
    if isinstance(told, DiskFull):
        return told
    return HostError(
        f"the storage root {root} cannot be used",
        details=str(error),
        resolution="start the manager as root, or set MANAGER_STORAGE_ROOT to a folder of its own",
    )


def _names(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _refusal(path: Path, what: str, holder: Holder | None) -> Conflict:
    end = "`systemctl stop warmboot`" + (f", or `kill {holder.pid}`" if holder else "")
    return Conflict(
        f"another manager runs {what}",
        details=f"{holder or 'it has not identified itself yet'}; it holds {path}",
        resolution=f"use that one, or end it ({end}); a second one beside it needs its own "
        "MANAGER_STORAGE_ROOT, MANAGER_PORT, MANAGER_NETWORK_PREFIX and MANAGER_NETWORK_SUBNET, "
        "and a MANAGER_DATABASE_URL of its own if that is set",
    )


def _check_networks(prefix: str, us: Holder, last: Holder | None) -> None:
    """``Conflict`` if VMs of another storage root run in networks of this prefix."""
    if last is not None and last.root_inode == us.root_inode:
        return
    ours = {Path(us.root), Path(us.root).resolve()}
    deadline = time.monotonic() + _PASSING_S
    while True:
        theirs = [
            one for one in namespace_processes(prefix) if not any(one.names(root) for root in ours)
        ]
        if not theirs or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_AGAIN_S)  # a process of theirs may just be ending
    if theirs:
        raise _prefix_in_use(prefix, theirs, last)
    if last is not None:
        log.info(f"the network prefix {prefix!r} was that of {last.root}, and is ours from now on")


def _prefix_in_use(
    prefix: str, theirs: Sequence[NamespaceProcess], last: Holder | None
) -> Conflict:
    root = f"the storage root {last.root}" if last is not None else "another storage root"
    pids = " ".join(str(one.pid) for one in theirs)
    start = f"start it (MANAGER_STORAGE_ROOT={last.root}) and " if last is not None else ""
    return Conflict(
        f"VMs of {root} run in the networks of the prefix {prefix!r}",
        details=f"pids {pids}; their manager is not running, and their networks would be deleted",
        resolution="give this one another MANAGER_NETWORK_PREFIX and MANAGER_NETWORK_SUBNET; or "
        f"{start}remove its containers first; if they are no longer needed: `kill -9 {pids}`",
    )


def _read(fd: int) -> Holder | None:
    try:
        return decode(Holder, os.pread(fd, _MOST_BYTES, 0))
    except (OSError, CodecError):
        return None  # a new one, or one of an earlier version, which was empty


def _tell(fd: int, us: Holder) -> None:
    said = json.dumps(asdict(us)).encode() + b"\n"
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, said, 0)
    except OSError as error:  # the lock holds all the same; a full disk keeps nobody from starting
        log.warning("who holds a lock could not be written into it", error=str(error))
