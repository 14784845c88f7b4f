"""Remote procedure calls over TCP (RFC 5531): records, calls, and what is wrong with one.

Procedures that only look are answered in the order in which they come; those that move data or wait
for a disk run in threads beside them.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock, Thread
from time import sleep

from warmboot.folder_server.xdr import Malformed, Reader, u32

log = logging.getLogger(__name__)

MOST_RECORD_BYTES = (1 << 20) + 4096
_LAST = 1 << 31
_CALL, _REPLY, _ACCEPTED, _DENIED = 0, 1, 0, 1
_SUCCESS, _PROG_UNAVAIL, _PROG_MISMATCH, _PROC_UNAVAIL, _GARBAGE, _SYSTEM_ERR = range(6)
_RPC_VERSION, _MOST_AUTH_BYTES = 2, 400
_WORKERS, _MOST_AT_WORK, _MOST_CONNECTIONS, _MOST_FRAGMENTS = 8, 64, 32, 256
_PAUSE_S = 0.2
_FIRST_OF_ANYBODY = 1024
_HEAD = struct.Struct(">IIIIII")

Procedure = Callable[[Reader], list[bytes]]
"""Answers with its results, in parts."""


@dataclass(frozen=True, slots=True)
class Program:
    """The version of a program that is spoken. ``slow``: procedures that run in threads."""

    version: int
    procedures: Mapping[int, Procedure]
    slow: frozenset[int] = frozenset()


class Server:
    """``serve`` connections, each in a thread, until the listening socket is shut down.

    Only those that come from a port which takes root to have: an NFS client of a kernel has one.
    Without ``privileged``, from any.
    """

    def __init__(self, programs: Mapping[int, Program], *, privileged: bool = True) -> None:
        self._programs = programs
        self._privileged = privileged
        self._workers = ThreadPoolExecutor(_WORKERS, "file")
        self._room = BoundedSemaphore(_MOST_CONNECTIONS)
        # One for all: what a connection has asked for is kept until it is done, whoever hangs up.
        self._at_work = BoundedSemaphore(_MOST_AT_WORK)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, (_, port) = listener.accept()
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return
                log.error("no connection can be taken: %s", error)  # for want of descriptors
                sleep(_PAUSE_S)
                continue
            if self._privileged and port >= _FIRST_OF_ANYBODY:
                sock.close()
                continue
            if not self._room.acquire(blocking=False):  # a guest's kernel needs a few
                sock.close()
                continue
            try:
                Thread(target=self._converse, args=(sock,), daemon=True).start()
            except RuntimeError as error:  # the owner has as many as a user may have
                log.error("a connection is refused: %s", error)
                self._room.release()
                sock.close()
                sleep(_PAUSE_S)

    def _converse(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._conversation(sock).run()
            except (OSError, Malformed) as error:
                log.debug("a connection has ended: %s", error)
            finally:
                self._room.release()

    def _conversation(self, sock: socket.socket) -> _Conversation:
        return _Conversation(self._programs, self._workers, self._at_work, sock)


class _Conversation:
    def __init__(
        self,
        programs: Mapping[int, Program],
        workers: ThreadPoolExecutor,
        room: BoundedSemaphore,
        sock: socket.socket,
    ) -> None:
        self._programs = programs
        self._workers = workers
        self._sock = sock
        self._stream = sock.makefile("rb", buffering=1 << 18)
        self._sending = Lock()
        self._room = room

    def run(self) -> None:
        with self._stream:
            while (record := self._record()) is not None:
                self._take(record)

    def _record(self) -> bytes | None:
        """``None`` at the end of the connection."""
        parts: list[bytes] = []
        size = 0
        while True:
            head = self._stream.read(4)
            if len(head) < 4:
                return None
            word = int.from_bytes(head, "big")
            size += word & ~_LAST
            if size > MOST_RECORD_BYTES:
                raise Malformed(f"a call of {size} bytes")
            if len(parts) == _MOST_FRAGMENTS:  # empty ones have no size
                raise Malformed("a call in too many fragments")
            part = self._stream.read(word & ~_LAST)
            if len(part) < word & ~_LAST:
                return None
            parts.append(part)
            if word & _LAST:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, record: bytes) -> None:
        call = Reader(record)
        xid, kind = call.u32(), call.u32()
        if kind != _CALL:
            raise Malformed("an answer, where there was no question")
        rpc, number, version, procedure = (call.u32() for _ in range(4))
        if rpc != _RPC_VERSION:
            self._send([struct.pack(">IIIIII", xid, _REPLY, _DENIED, 0, 2, 2)])
            return
        for _ in range(2):  # who says that they ask, which changes nothing here
            call.u32()
            call.opaque(_MOST_AUTH_BYTES)
        program = self._programs.get(number)
        if program is None:
            self._refuse(xid, _PROG_UNAVAIL)
        elif program.version != version:
            self._refuse(xid, _PROG_MISMATCH, u32(program.version) * 2)
        elif (found := program.procedures.get(procedure)) is None:
            self._refuse(xid, _PROC_UNAVAIL)
        elif procedure in program.slow:
            self._room.acquire()
            self._workers.submit(self._answer_beside, xid, found, call)
        else:
            self._answer(xid, found, call)

    def _answer_beside(self, xid: int, procedure: Procedure, call: Reader) -> None:
        try:
            self._answer(xid, procedure, call)
        except OSError:
            self._sock.close()
        finally:
            self._room.release()

    def _answer(self, xid: int, procedure: Procedure, call: Reader) -> None:
        try:
            results = procedure(call)
        except Malformed:
            self._refuse(xid, _GARBAGE)
        except Exception:  # the guest waits for an answer, whatever it is
            log.exception("a procedure met a bug")
            self._refuse(xid, _SYSTEM_ERR)
        else:
            self._send([_HEAD.pack(xid, _REPLY, _ACCEPTED, 0, 0, _SUCCESS), *results])

    def _refuse(self, xid: int, status: int, more: bytes = b"") -> None:
        self._send([_HEAD.pack(xid, _REPLY, _ACCEPTED, 0, 0, status) + more])

    def _send(self, parts: list[bytes]) -> None:
        size = sum(map(len, parts))
        with self._sending:
            if size < 1 << 16:
                self._sock.sendall(b"".join((u32(size | _LAST), *parts)))
                return
            for part in (u32(size | _LAST), *parts):
                self._sock.sendall(part)
