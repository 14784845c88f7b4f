"""Opening a TAP device inside a VM's network namespace, for a VMM that may not open it itself."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from warmboot.model.errors import HypervisorError
from warmboot.model.vm import Nic

_CLONE_NEWNET = 0x40000000
_TUN_DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


async def open_tap(nic: Nic) -> int:
    """A file descriptor of the TAP; frames carry the virtio-net header. The caller closes it."""
    # A namespace belongs to a thread: this one enters it and ends there.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tap") as thread:
        try:
            return await asyncio.wrap_future(thread.submit(_open, nic))
        except OSError as error:
            raise HypervisorError(
                f"the TAP device {nic.tap} of {nic.namespace.name} cannot be opened",
                details=str(error),
                resolution="see `warmboot doctor`",
            ) from error


def _open(nic: Nic) -> int:
    namespace = os.open(nic.namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {nic.namespace}")
    finally:
        os.close(namespace)
    tap = os.open(_TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", nic.tap.encode(), flags))
    except OSError:
        os.close(tap)
        raise
    return tap
