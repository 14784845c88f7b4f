"""The kernel's side of serving pages: what can be done with a userfault file descriptor.

Numbers and layouts are those of ``linux/userfaultfd.h`` (the stable part, since Linux 4.11); what
the calls return is described in ioctl_userfaultfd(2) and ``admin-guide/mm/userfaultfd.rst`` of the
kernel's documentation.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

DEVICE = "/dev/userfaultfd"
FOR_ALL_USERS = "/proc/sys/vm/unprivileged_userfaultfd"

_NEW, _API_CALL, _COPY, _ZEROPAGE, _WAKE = 0xAA00, 0xC018AA3F, 0xC028AA03, 0xC020AA04, 0x8010AA02
_API = 0xAA
_API_LAYOUT = struct.Struct("<QQQ")  # api, features, ioctls
_COPY_LAYOUT = struct.Struct("<QQQQq")  # dst, src, len, mode, copied
_ZERO_LAYOUT = struct.Struct("<QQQq")  # start, len, mode, zeroed
_RANGE = struct.Struct("<QQ")
_MESSAGE = struct.Struct("<B7xQQ8x")  # event, then address in the second word or a range in both
_PAGEFAULT, _REMOVE = 0x12, 0x15
_MESSAGES_AT_ONCE = 64


class Gone(Exception):
    """The process whose memory it is has ended."""


class MappingChanges(Exception):
    """An event has to be read first: the mapping is being changed."""


class Fault(NamedTuple):
    """Somebody waits for the page at ``address``."""

    address: int


class Removed(NamedTuple):
    """These pages were given back; they are zero from now on."""

    start: int
    end: int


class Userfault:
    """A userfault descriptor that was handed to us; non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    def events(self) -> list[Fault | Removed]:
        """What has happened; empty when nothing has."""
        try:
            messages = os.read(self.descriptor, _MESSAGE.size * _MESSAGES_AT_ONCE)
        except BlockingIOError:
            return []
        found: list[Fault | Removed] = []
        for event, first, second in _MESSAGE.iter_unpack(messages):
            if event == _PAGEFAULT:
                found.append(Fault(second))
            elif event == _REMOVE:
                found.append(Removed(first, second))
        return found

    def copy(self, target: int, content: bytes, start: int, length: int) -> int:
        """Fill pages from ``content[start:]`` and wake who waits for them; how far it came.

        0: the first page is there already. ``Gone``, ``MappingChanges``.
        """
        source = ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value
        assert source is not None
        call = bytearray(_COPY_LAYOUT.pack(target, source + start, length, 0, 0))
        return self._fill(_COPY, call, length)

    def zero(self, target: int, length: int) -> int:
        """The same with the kernel's own page of zeros, which takes no memory."""
        call = bytearray(_ZERO_LAYOUT.pack(target, length, 0, 0))
        return self._fill(_ZEROPAGE, call, length)

    def wake(self, start: int, length: int) -> None:
        """Let those go on that wait for pages which are there."""
        fcntl.ioctl(self.descriptor, _WAKE, _RANGE.pack(start, length))

    def _fill(self, number: int, call: bytearray, length: int) -> int:
        try:
            fcntl.ioctl(self.descriptor, number, call)
        except OSError as error:
            (done,) = struct.unpack_from("<q", call, len(call) - 8)
            if done > 0:
                return int(done)
            if error.errno == errno.EEXIST:
                return 0
            if error.errno == errno.EAGAIN:
                raise MappingChanges from error
            if error.errno in (errno.ESRCH, errno.ENOENT):
                raise Gone from error
            raise
        return length


def can_serve() -> bool:
    """Whether this process may make one for another's kernel to fault on: needs no privilege but
    access to the device."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        descriptor = fcntl.ioctl(device, _NEW, os.O_CLOEXEC)
    except OSError:
        return False
    finally:
        os.close(device)
    try:
        fcntl.ioctl(descriptor, _API_CALL, bytearray(_API_LAYOUT.pack(_API, 0, 0)))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def all_users_may() -> bool:
    """Whether anybody may have kernel faults served, the device aside."""
    try:
        with open(FOR_ALL_USERS) as file:  # noqa: PTH123 (see the page server)
            return file.read().strip() == "1"
    except OSError:
        return False
