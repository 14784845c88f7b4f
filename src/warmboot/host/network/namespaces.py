"""Network namespaces: created and deleted; ``system.in_namespace`` has how they are entered.

A namespace is kept by a bind mount under ``/run/netns``, as ``ip netns`` does it, so that
``ip netns exec`` and ``nsenter`` find it too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path
from typing import TypeVar

from warmboot.host.network.config import NETNS_DIR
from warmboot.system.in_namespace import connect as connect
from warmboot.system.in_namespace import enter as enter
from warmboot.system.in_namespace import in_thread as in_thread

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 0x2

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, flags: int) -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None),
        f"mount {target}",
    )


def create(namespace: Path) -> None:
    """Make a namespace and keep it at this path. Blocks; moves the calling thread into it."""
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
    pin(Path(f"/proc/self/task/{threading.get_native_id()}/ns/net"), namespace)


def pin(source: Path, namespace: Path) -> None:
    """Keep the namespace that ``source`` leads to at this path. Blocks."""
    _prepare_directory()
    os.close(os.open(namespace, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o000))
    try:
        _mount(str(source), str(namespace), _MS_BIND)
    except OSError:
        namespace.unlink()
        raise


def is_one(namespace: Path) -> bool:
    """Whether a namespace is kept at this path, and not only a file there."""
    try:
        return os.stat(namespace).st_dev == os.stat("/proc/self/ns/net").st_dev  # noqa: PTH116
    except FileNotFoundError:
        return False


def _prepare_directory() -> None:
    """A shared mount, so that other mount namespaces see what is mounted and unmounted in it."""
    NETNS_DIR.mkdir(mode=0o755, exist_ok=True)
    try:
        _mount("", str(NETNS_DIR), _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is no mount point yet
            raise
        _mount(str(NETNS_DIR), str(NETNS_DIR), _MS_BIND | _MS_REC)
        _mount("", str(NETNS_DIR), _MS_SHARED | _MS_REC)


def delete(namespace: Path) -> None:
    """Let go of a namespace; it is gone when no process is left in it. Idempotent, blocks."""
    try:
        _check(_libc.umount2(str(namespace).encode(), _MNT_DETACH), f"unmount {namespace}")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # half made, or not there at all
            raise
    namespace.unlink(missing_ok=True)
