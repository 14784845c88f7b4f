"""Takes everything from this process but the given folders and their owner's rights.

A mount namespace of its own, whose root has one folder for each that is given, and nothing else: a
symbolic link that leads out of them leads nowhere. A folder is held from then on: if its name comes
to mean something else, that is not served.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4
_SYS_PIVOT_ROOT = 155
_MOST_FILES = 4096
_MOST_DATA_BYTES = 512 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Share:
    """A folder to be served, under its id."""

    id: str
    path: str
    read_only: bool

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Share:
        return cls(str(said["id"]), str(said["path"]), bool(said["read_only"]))


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose rights the process has."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def confine(shares: Iterable[Share], identity: Identity, place: Path) -> dict[str, str]:
    """Do it; why a folder cannot be served, by its id. ``place``: any folder; it is only hidden to
    us. Root's work: ``OSError`` for others.
    """
    # In its VM's control group, where it is not the VM that is to end for want of memory.
    Path("/proc/self/oom_score_adj").write_text("1000")
    refused = _in_own_root(shares, identity, place)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_MOST_FILES, most), min(_MOST_FILES, most)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_DATA_BYTES, _MOST_DATA_BYTES))
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    if identity.uid == 0:
        _drop_capabilities()
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # Its owner's other processes do not look into it, nor get into the VM's network by it.
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    os.umask(0)
    return refused


def _in_own_root(shares: Iterable[Share], identity: Identity, place: Path) -> dict[str, str]:
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    opened: dict[Share, int] = {}
    refused: dict[str, str] = {}
    for share in shares:
        try:
            opened[share] = _opened_as(identity, share.path)
        except OSError as error:
            refused[share.id] = os.strerror(error.errno or 0)
    _mount("folders", str(place), "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=755,size=64k")
    for share, descriptor in opened.items():
        target = place / share.id
        target.mkdir(mode=0o755)
        try:
            _bind(share, descriptor, target)
        except OSError as error:  # of a disk that is gone
            refused[share.id] = os.strerror(error.errno or 0)
        finally:
            os.close(descriptor)
    _mount(None, str(place), None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir(place)
    _check(_libc.syscall(_SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    return refused


def _bind(share: Share, descriptor: int, target: Path) -> None:
    """``OSError``; it is not there then."""
    flags = _flags(share, descriptor)
    # By descriptor: it is what was opened, whatever the name means by now.
    _mount(f"/proc/self/fd/{descriptor}", str(target), None, _MS_BIND)
    try:
        _mount(None, str(target), None, _MS_BIND | _MS_REMOUNT | flags)
        target.lstat()
    except OSError:
        _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"umount {target}")
        raise


def _flags(share: Share, descriptor: int) -> int:
    """Those of its mount, which take the place of all that the host's has: what is read-only there
    stays so."""
    read_only = share.read_only or os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
    return _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)


def _opened_as(identity: Identity, path: str) -> int:
    """The folder, if its owner may enter it: found with their rights, through no link."""
    groups = os.getgroups()
    os.setgroups(identity.groups)
    os.setegid(identity.gid)
    os.seteuid(identity.uid)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open("/", flags)
        for name in Path(path).parts[1:]:
            try:
                inner = os.open(name, flags | os.O_PATH, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _drop_capabilities() -> None:
    """Root without them: what is done is done by the rights of files that are root's."""
    for number in range(64):
        _libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: past the last one it says no
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(*_kept())
    _check(_libc.capset(header, data), "capset")


def _kept() -> tuple[int, ...]:
    """Root's files may be anybody's: DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER."""
    kept = 1 << 1 | 1 << 2 | 1 << 3
    return kept, kept, 0, 0, 0, 0


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [None if one is None else os.fsencode(one) for one in (source, target, kind)]
    done = _libc.mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data) or None)
    _check(done, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
