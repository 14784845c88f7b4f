"""The containerd behind an engine, and the temporary folders that it works in.

A dump goes through ``ctd-checkpoint<number>``, which containerd removes. For a restore it unpacks
the checkpoint, so all of the worker's memory, into ``ctrd-checkpoint<number>``, and leaves that
there for ever. Which folder is whose can be told: before each restore the checkpoint is salted (see
``restore``), and its copy has the salt.

The folder is that of containerd's own environment, in its own mount namespace: under systemd's
``PrivateTmp`` it is seen through ``/proc/<pid>/root`` only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from warmboot.criu.continuity import descendants
from warmboot.docker.peer import engine_process, listener
from warmboot.model.garbage import DiskEntry, Kind
from warmboot.system import procfs

SALT_FILE = "warmboot.salt"
SYSTEM_SOCKET = Path("/run/containerd/containerd.sock")
_PROC = Path("/proc")
_PROGRAM = "containerd"
_COPY = re.compile(r"ctrd-checkpoint[0-9]+")
_WORK = re.compile(r"ctr?d-checkpoint[0-9]+")
_MOUNT_POINT = re.compile(r"\.criu\.mntns\.[A-Za-z0-9]{6}")
"""Of a CRIU that was killed at a restore: empty, as what it mounts there is seen by itself only."""
_SALT_BYTES = 256


def scratch_folders(engine: Path, proc: Path = _PROC) -> tuple[Path, ...]:
    """The folders for temporary files of the containerd behind the engine at ``engine``.

    As they are reached from here; none when that cannot be told.
    """
    pid = _containerd_pid(engine, proc)
    if pid is None:
        return ()
    try:
        variables = (proc / str(pid) / "environ").read_bytes().split(b"\0")
        shared = _namespace(proc / str(pid)) == _namespace(proc / "self")
    except OSError:
        return ()
    known = dict(v.split(b"=", 1) for v in variables if b"=" in v)
    root = Path("/") if shared else proc / str(pid) / "root"
    names = (known.get(b"XDG_RUNTIME_DIR"), known.get(b"TMPDIR") or b"/tmp")
    folders = (root / os.fsdecode(name).lstrip("/") for name in names if name)
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def work_in(folders: Sequence[Path]) -> Iterator[Path]:
    """The temporary folders of dumps and restores, whoever's they are."""
    return (path for folder in folders for path in _ours(folder, _WORK))


def forget_restored(folders: Sequence[Path], salts: Sequence[str]) -> None:
    """Remove what containerd has unpacked for restores of ours that have been answered."""
    for folder in folders:
        for path in _ours(folder, _COPY):
            if _salt_of(path) in salts:
                shutil.rmtree(path, ignore_errors=True)


class RestoreCopies:
    """What restores have left: copies of a manager that was killed, or of somebody else's Docker,
    and empty folders of a CRIU that was.

    Nothing is pointed out or removed while anything on this machine is being restored.
    """

    def __init__(self, engine: Path, proc: Path = _PROC) -> None:
        self._engine = engine
        self._proc = proc

    def find(self) -> list[DiskEntry]:
        if _restoring(self._proc):
            return []
        folders = scratch_folders(self._engine, self._proc)
        found = (path for folder in folders for path in (*_ours(folder, _COPY), *_empty(folder)))
        copies = (_entry(path) for path in found if not self._in_use(path))
        return [copy for copy in copies if copy is not None]

    def remove(self, one: DiskEntry) -> bool:
        """Whether it is gone; it stays when it was touched since, or is in use."""
        now = _entry(one.path)
        if now is None:
            return True
        if now.changed_at != one.changed_at or _restoring(self._proc) or self._in_use(one.path):
            return False
        if _MOUNT_POINT.fullmatch(one.path.name):
            with contextlib.suppress(OSError):  # it is not empty any more
                one.path.rmdir()
        else:
            shutil.rmtree(one.path, ignore_errors=True)
        return not one.path.exists()

    def _in_use(self, path: Path) -> bool:
        """A process names it on its command line, works in it, or has a file of it open."""
        name = os.fsencode(path.name)
        for process in _processes(self._proc):
            with contextlib.suppress(OSError):
                if name in (process / "cmdline").read_bytes():
                    return True
                opened = (Path(file) for _, file in procfs.open_files(process))
                if any(path.name in used.parts for used in ((process / "cwd").readlink(), *opened)):
                    return True
        return False


def _containerd_pid(engine: Path, proc: Path) -> int | None:
    if not engine.is_socket():
        return None
    process = engine_process(engine, proc)
    if process is None:  # systemd listens for it; then it is the machine's own
        return listener(SYSTEM_SOCKET)
    for child in descendants(process.pid, proc):
        if _name(child, proc) == _PROGRAM:
            return child
    return listener(process.containerd or SYSTEM_SOCKET)


def _name(pid: int, proc: Path) -> str:
    try:
        return procfs.name(proc / str(pid))
    except OSError:
        return ""


def _namespace(process: Path) -> str:
    return str((process / "ns" / "mnt").readlink())


def _ours(folder: Path, name: re.Pattern[str]) -> Iterator[Path]:
    """Folders (and no links) of such a name that belong to our own user, as containerd's do."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if name.fullmatch(path.name):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    yield path


def _empty(folder: Path) -> Iterator[Path]:
    for path in _ours(folder, _MOUNT_POINT):
        with contextlib.suppress(OSError):
            if not any(path.iterdir()):
                yield path


def _salt_of(folder: Path) -> str:
    try:
        descriptor = os.open(folder / SALT_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(descriptor, _SALT_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _entry(path: Path) -> DiskEntry | None:
    """Its time is the newest change of anything in it: unpacking gives files their old times."""
    size_bytes, changed_s = 0, 0.0
    try:
        for one in (path, *path.rglob("*")):
            status = one.lstat()
            size_bytes += status.st_blocks * 512
            changed_s = max(changed_s, status.st_ctime)
    except FileNotFoundError:
        return None
    changed_at = datetime.fromtimestamp(changed_s, UTC)
    return DiskEntry(Kind.RESTORE_COPY, path, path.name, size_bytes, changed_at)


def _restoring(proc: Path) -> bool:
    """Whether any runtime, or CRIU itself, is just restoring anything."""
    for process in _processes(proc):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"restore" in words[1:] and Path(os.fsdecode(words[0])).name in _RESTORERS:
                return True
    return False


_RESTORERS = ("runc", "crun", "youki", "criu")


def _processes(proc: Path) -> Iterator[Path]:
    return (entry for entry in proc.iterdir() if entry.name.isdigit())
