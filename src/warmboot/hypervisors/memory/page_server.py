"""Serves the pages of one VM's memory out of compressed frames, as they are touched.

    handshake ─▶ recorded frames first, a fault always before the next of them ─▶ faults
                                                                                    │
    the VM ends ─▶ exit 0             a frame is damaged ─▶ VM killed, told, exit 3 ┘

A fault is answered with its whole frame: pages that are zero in the snapshot become the kernel's
zero page, which takes no memory, the others are copied. What the VM gave back (a balloon) is zero
when it is touched again. The VM can do nothing without this process and must never see a page that
is not its own, so whatever goes wrong here ends it.

The frames that the VM faulted on in its first seconds are told to the driver once, over the
descriptor that it left us; the next server of this snapshot gets them as the recorded ones.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from warmboot.hypervisors.memory.frames import FRAME_BYTES, PAGE, Frames, runs_of
from warmboot.hypervisors.memory.userfault import Fault, Gone, MappingChanges, Removed, Userfault
from warmboot.model.errors import SnapshotDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DAMAGED, FAILED = 3, 4
HANDSHAKE_TIMEOUT_S = 60.0
_LONGEST_HANDSHAKE = 1 << 16
_ALL_PAGES = (1 << (FRAME_BYTES // PAGE)) - 1


class Region(NamedTuple):
    """A piece of guest memory: where the VMM has it, and where it is in the snapshot."""

    address: int
    size: int
    offset: int


class Pages(Protocol):
    """What a server needs of ``Userfault``."""

    def events(self) -> list[Fault | Removed]: ...

    def copy(self, target: int, content: bytes, start: int, length: int) -> int: ...

    def zero(self, target: int, length: int) -> int: ...

    def wake(self, start: int, length: int) -> None: ...


class PageServer:
    """Knows of each page whether it was served, and answers events. ``touched`` are the frames
    that somebody waited for, in that order."""

    def __init__(self, frames: Frames, pages: Pages, regions: Iterable[Region]) -> None:
        self._frames = frames
        self._pages = pages
        self._regions = list(regions)
        self._pending = [_ALL_PAGES] * len(frames.entries)
        self._faults: list[int] = []
        self.touched: dict[int, None] = {}

    def answer(self) -> None:
        """Answer all that has happened."""
        self._take()
        while self._faults:
            self._on_fault(self._faults.pop(0))

    def serve(self, number: int) -> None:
        """Bring in what is still missing of a frame."""
        content = None
        while pending := self._pending[number]:
            data = self._frames.entries[number].mask & pending
            start, end = runs_of(data or pending)[0]
            if data and content is None:
                content = self._frames.read(number)
            try:
                self._fill(number, start, end, content if data else None)
            except MappingChanges:
                self._take()  # what was given back meanwhile is no longer pending

    def _take(self) -> None:
        """Read what has happened. What was given back counts at once: its pages go as soon as that
        is read, and nothing may be copied there any more."""
        for event in self._pages.events():
            if isinstance(event, Removed):
                self._on_removed(event)
            else:
                self._faults.append(event.address)

    def _fill(self, number: int, start: int, end: int, content: bytes | None) -> None:
        """Bring in one run, as far as it goes at once."""
        end = min(end, self._frames.plain_length(number))
        address, length = self._target(number * FRAME_BYTES + start, end - start)
        if length <= 0:  # beyond the machine's memory: nobody can touch it
            self._done(number, start, FRAME_BYTES)
            return
        if content is None:
            filled = self._pages.zero(address, length)
        else:
            filled = self._pages.copy(address, content, start, length)
        if filled == 0:  # there already
            self._pages.wake(address, PAGE)
            filled = PAGE
        self._done(number, start, start + filled)

    def _done(self, number: int, start: int, end: int) -> None:
        self._pending[number] &= ~_mask(start, end)

    def _target(self, offset: int, length: int) -> tuple[int, int]:
        """Where the VMM has a part of memory, and how much of it in one piece."""
        for region in self._regions:
            at = offset - region.offset
            if 0 <= at < region.size:
                return region.address + at, min(length, region.size - at)
        return 0, 0

    def _on_fault(self, address: int) -> None:
        address &= -PAGE
        number, at = divmod(self._offset(address), FRAME_BYTES)
        bit = _mask(at, at + PAGE)
        if self._pending[number] & bit:
            self.touched[number] = None
            self.serve(number)
            return
        # It was there and was given back: zero from now on. Or somebody else asked for it first.
        with suppress(MappingChanges):  # given back once more: whoever waits will ask again
            self._pages.zero(address, PAGE)
        self._pages.wake(address, PAGE)

    def _on_removed(self, event: Removed) -> None:
        for address in range(event.start, event.end, PAGE):
            number, at = divmod(self._offset(address), FRAME_BYTES)
            self._pending[number] &= ~_mask(at, at + PAGE)

    def _offset(self, address: int) -> int:
        for region in self._regions:
            if 0 <= address - region.address < region.size:
                return region.offset + address - region.address
        raise ValueError(f"{address:#x} is not the guest's memory")


class Peer:
    """The VMM at the other end of the socket: what it told us, and its end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.process = os.pidfd_open(struct.unpack("<iII", credentials)[0])

    def handshake(self) -> tuple[Userfault, list[Region]]:
        """Firecracker's message: the userfault descriptor with the regions as JSON.

        See ``docs/snapshotting/handling-page-faults-on-snapshot-resume.md`` of Firecracker.
        """
        self.connection.settimeout(HANDSHAKE_TIMEOUT_S)
        text, ancillary, _, _ = self.connection.recvmsg(_LONGEST_HANDSHAKE, socket.CMSG_SPACE(4))
        descriptors = [
            struct.unpack("i", data[:4])[0]
            for level, kind, data in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        ]
        if not descriptors:
            raise ValueError("no userfault descriptor came with the memory regions")
        regions = [
            Region(int(r["base_host_virt_addr"]), int(r["size"]), int(r["offset"]))
            for r in json.loads(text)
        ]
        return Userfault(descriptors[0]), regions

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)


def run(
    listener: socket.socket, report: int, frames_path: str, recorded: str, record_s: float
) -> int:
    """Serve the first who connects until its end; the exit status."""
    _tell(report, {"up": True})
    try:
        frames = Frames(frames_path)
    except SnapshotDamaged as error:
        _tell(report, {"damaged": error.details})
        return DAMAGED
    listener.settimeout(HANDSHAKE_TIMEOUT_S)
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return FAILED  # nobody came
    peer = Peer(connection)
    try:
        userfault, regions = peer.handshake()
        server = PageServer(frames, userfault, regions)
        ahead = load_recorded(recorded, len(frames.entries))
        _serve(server, userfault, peer, ahead, None if ahead else _Record(report, record_s))
    except Gone:
        return 0
    except SnapshotDamaged as error:
        _tell(report, {"damaged": error.details})
        return DAMAGED
    except (OSError, ValueError, KeyError, TypeError) as error:
        _tell(report, {"failed": f"{type(error).__name__}: {error}"})
        return FAILED
    finally:
        peer.kill()  # whyever we end: nobody will answer its faults any more
    return 0


def load_recorded(path: str, count: int) -> list[int]:
    """The frames that an earlier VM touched first; none when that is not known."""
    try:
        with open(path) as file:  # noqa: PTH123 (pathlib costs milliseconds of every restore)
            numbers = json.load(file)
        return [int(number) for number in numbers if 0 <= int(number) < count]
    except (OSError, ValueError, TypeError):
        return []


class _Record:
    """Tells the driver once, after some seconds, which frames were touched."""

    def __init__(self, report: int, after_s: float) -> None:
        self._report = report
        self._moment: float | None = time.monotonic() + after_s

    def timeout_ms(self) -> float | None:
        if self._moment is None:
            return None
        return max(0.0, self._moment - time.monotonic()) * 1000 + 1

    def tell_when_due(self, server: PageServer) -> None:
        if self._moment is not None and time.monotonic() >= self._moment:
            self._moment = None
            _tell(self._report, {"touched": list(server.touched)})


def _serve(
    server: PageServer,
    userfault: Userfault,
    peer: Peer,
    recorded: list[int],
    record: _Record | None,
) -> None:
    ahead, prefetching = iter(recorded), bool(recorded)
    poller = select.poll()
    poller.register(userfault.descriptor, select.POLLIN)
    poller.register(peer.process, select.POLLIN)
    while True:
        timeout_ms = record.timeout_ms() if record else None
        ready = dict(poller.poll(0 if prefetching else timeout_ms))
        if peer.process in ready:
            return
        if userfault.descriptor in ready:
            server.answer()
        elif prefetching:
            number = next(ahead, None)
            prefetching = number is not None
            if number is not None:
                server.serve(number)
                server.answer()  # what came in meanwhile
        if record:
            record.tell_when_due(server)


def _mask(start: int, end: int) -> int:
    """The bits of the pages from ``start`` to ``end``, offsets in a frame."""
    return ((1 << ((end - start + PAGE - 1) // PAGE)) - 1) << (start // PAGE)


def _tell(report: int, news: dict[str, object]) -> None:
    """The driver may be gone: then nobody needs to know."""
    with suppress(OSError):
        for part in _chunks(json.dumps(news).encode() + b"\n"):
            os.write(report, part)


def _chunks(content: bytes, size: int = 1 << 15) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
