"""Work inside a network namespace, and connections out of one.

A namespace belongs to a thread, not to a process. Whatever has to happen inside one is done by a
short-lived thread that enters it and ends there; no thread of a pool is ever in the wrong place,
because none ever leaves its own. What such a thread opens (a socket, a TAP) stays in the namespace
and can be used from anywhere afterwards.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from warmboot.model.errors import NetworkError
from warmboot.system.concurrency import finish

_CLONE_NEWNET = 0x40000000

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: Path) -> None:
    """Move the calling thread."""
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter {namespace}: {os.strerror(number)}")
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
