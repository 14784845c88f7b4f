"""A process whose memory a page server serves, as Firecracker's is; it does what it is told.

``FakeVmm.start`` runs this file as a program: it maps memory, registers it with a userfault
descriptor, hands that to the page server and obeys lines of JSON on its standard input.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

_NEW, _API, _REGISTER = 0xAA00, 0xC018AA3F, 0xC020AA00
_EVENT_REMOVE, _MODE_MISSING = 1 << 3, 1


class FakeVmm:
    """Such a process, seen from the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, pages_socket: Path, regions: list[tuple[int, int]]) -> FakeVmm:
        """``regions`` are sizes and offsets in the snapshot, as Firecracker tells them."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, str(pages_socket), json.dumps(regions)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def ask(self, timeout_s: float = 20.0, **order: Any) -> Any:
        """Its answer; ``None`` if it ended instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(timeout_s):
            line = await self.process.stdout.readline()
        return json.loads(line) if line else None

    async def sum(self, start: int, length: int) -> str:
        return str(await self.ask(do="sum", start=start, length=length))

    def own_bytes(self) -> int:
        """Memory that is its own: what was copied into it."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("it is not there")

    async def end(self) -> int:
        if self.process.returncode is None:
            self.process.kill()
        return await self.process.wait()


def _main() -> None:
    path, regions = sys.argv[1], json.loads(sys.argv[2])
    libc = ctypes.CDLL(None)
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    descriptor = fcntl.ioctl(device, _NEW, os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _API, bytearray(struct.pack("<QQQ", 0xAA, _EVENT_REMOVE, 0)))
    maps, told = [], []
    for size, offset in regions:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call = bytearray(struct.pack("<QQQQ", address, size, _MODE_MISSING, 0))
        fcntl.ioctl(descriptor, _REGISTER, call)
        maps.append((memory, address, size, offset))
        told.append({"base_host_virt_addr": address, "size": size, "offset": offset})
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    socket.send_fds(server, [json.dumps(told).encode()], [descriptor])

    def address_of(at: int) -> int:
        (found,) = [a + at - offset for _, a, size, offset in maps if 0 <= at - offset < size]
        return int(found)

    def touch_all(orders: list[int]) -> None:
        one = ctypes.create_string_buffer(1)
        for at in orders:
            libc.memcpy(one, ctypes.c_void_p(address_of(at)), ctypes.c_size_t(1))

    for line in sys.stdin:
        order = json.loads(line)
        answer: object = None
        if order["do"] == "sum":
            content = bytearray(order["length"])
            target = (ctypes.c_char * len(content)).from_buffer(content)
            source = ctypes.c_void_p(address_of(order["start"]))
            libc.memcpy(target, source, ctypes.c_size_t(len(content)))
            answer = hashlib.sha256(content).hexdigest()
        elif order["do"] == "write":
            libc.memset(ctypes.c_void_p(address_of(order["start"])), 7, ctypes.c_size_t(1))
        elif order["do"] == "remove":
            for memory, _, size, offset in maps:
                if 0 <= order["start"] - offset < size:
                    start = order["start"] - offset
                    memory.madvise(mmap.MADV_DONTNEED, start, order["length"])
        elif order["do"] == "touch":
            threads = [threading.Thread(target=touch_all, args=(part,)) for part in order["parts"]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
