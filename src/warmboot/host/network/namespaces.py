"""Network namespaces: created, entered and deleted.

A namespace belongs to a thread, not to a process. Whatever has to happen inside one is done by a
short-lived thread that enters it and ends there; no thread of a pool is ever in the wrong place,
because none ever leaves its own. What such a thread opens (a socket, a TAP) stays in the namespace
and can be used from anywhere afterwards.

A namespace is kept by a bind mount under ``/run/netns``, as ``ip netns`` does it, so that
``ip netns exec`` and ``nsenter`` find it too.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from warmboot.host.network.config import NETNS_DIR
from warmboot.model.errors import NetworkError
from warmboot.system.concurrency import finish

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


def enter(namespace: Path) -> None:
    """Move the calling thread."""
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _CLONE_NEWNET), f"enter {namespace}")
    finally:
        os.close(fd)


def _enter_and_run(namespace: Path | None, function: Callable[[], T]) -> T:
    if namespace is not None:
        enter(namespace)
    return function()


async def in_thread(function: Callable[[], T], namespace: Path | None = None) -> T:
    """Run ``function`` in a thread of its own, inside ``namespace`` if one is given.

    A thread cannot be interrupted: cancelled, the call ends once the function has ended, so that
    nothing goes on behind the caller's back. ``OSError`` when the namespace cannot be entered,
    ``NetworkError`` when there is no thread to be had.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
    try:
        running = asyncio.wrap_future(executor.submit(_enter_and_run, namespace, function))
    except RuntimeError as error:  # Python's word for a thread that the kernel refused
        raise NetworkError(
            "no thread can be started for the network",
            details=str(error),
            resolution="check what uses up processes or memory on this machine",
        ) from error
    finally:
        executor.shutdown(wait=False)
    return await finish(running)


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


async def connect(namespace: Path, ip: str, port: int, timeout_s: float) -> socket.socket:
    """A non-blocking TCP socket, made inside ``namespace`` and connected from there.

    ``NetworkError`` when the namespace is gone, or nobody answers within ``timeout_s`` seconds.
    """
    with ExitStack() as on_failure:

        def make() -> socket.socket:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            return on_failure.enter_context(socket.socket(socket.AF_INET, kind))

        try:
            async with asyncio.timeout(timeout_s):
                connected = await in_thread(make, namespace)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().sock_connect(connected, (ip, port))
        except OSError as error:  # TimeoutError is one
            raise NetworkError(
                f"no connection to {ip}:{port} in {namespace.name}",
                details=str(error) or f"no answer within {timeout_s} s",
                resolution="check whether the VM is still running",
            ) from error
        on_failure.pop_all()
    return connected
