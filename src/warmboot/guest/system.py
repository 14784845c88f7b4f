"""What the agent does to the kernel and to files, in one place, so that tests can stand in."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_SETTLE_WINDOW_S = 0.2
_SETTLE_WINDOWS = 3
_SETTLE_LIMIT_S = 15.0


class System:
    """The real one. ``etc`` is where machine-id, hostname and hosts are."""

    def __init__(self, etc: Path = Path("/etc")) -> None:
        self.etc = etc

    def add_entropy(self, entropy: bytes) -> None:
        """Credit the bytes to the kernel's pool, and have its generator seeded anew at once."""
        request = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
        descriptor = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _RNDADDENTROPY, request)
            fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
        finally:
            os.close(descriptor)

    def set_clock(self, clock_ns: int) -> None:
        time.clock_settime_ns(time.CLOCK_REALTIME, clock_ns)

    def set_machine_id(self, machine_id: str) -> None:
        self._write("machine-id", machine_id + "\n")

    def set_hostname(self, hostname: str) -> None:
        socket.sethostname(hostname)
        self._write("hostname", hostname + "\n")
        self._write("hosts", f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")

    def sync(self) -> None:
        os.sync()

    def settle(self) -> None:
        """Wait until the processors have next to nothing to do.

        What is unfinished when a VM is frozen is the first thing that every clone does.
        """
        deadline = time.monotonic() + _SETTLE_LIMIT_S
        calm, busy = 0, self._busy_ticks()
        while calm < _SETTLE_WINDOWS and time.monotonic() < deadline:
            time.sleep(_SETTLE_WINDOW_S)
            before, busy = busy, self._busy_ticks()
            calm = calm + 1 if busy - before <= 1 else 0

    def _busy_ticks(self) -> int:
        """What all processors have worked, in ticks of 10 ms (proc_stat(5))."""
        user, nice, system, _, _, irq, softirq = map(
            int, Path("/proc/stat").read_text().split(None, 8)[1:8]
        )
        return user + nice + system + irq + softirq

    def forget_neighbours(self) -> None:
        """Drop what is known of MAC addresses: the next network is another one."""
        subprocess.run(
            ["/usr/sbin/ip", "neigh", "flush", "all"],
            check=False,
            timeout=10,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _write(self, name: str, text: str) -> None:
        # In place, not by renaming: somebody may have bind-mounted the file. And with bare system
        # calls: after a restore each layer of Python's files costs milliseconds.
        descriptor = os.open(
            f"{self.etc}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
        )
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
