"""What the agent asks of its machine: the kernel, files, programs, the network.

``System`` is the seam: the agent's own code decides what is to be done, and in which order, and is
the same wherever it runs. ``LinuxSystem`` is the machine inside a real VM; a simulated VM has one
in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from . import netlink
from .netlink import TcpConnection

GATEWAY = "198.18.0.1"
HOST_MARK = 0x7762
"""Lets a connection to the host pass the firewall of images of before, which drop what is for the
host. Containers have no right to set it."""

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_EXT4_IOC_RESIZE_FS = 0x40086610
_DISK, _WRITABLE = "vdb", "/var/lib"
_GROW_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.01
_RUN_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10.0
_SETTLE_WINDOW_S = 0.2
_SETTLE_WINDOWS = 3
_SETTLE_LIMIT_S = 15.0


class System(Protocol):
    """Everything here raises ``OSError`` where the machine says no."""

    def add_entropy(self, entropy: bytes) -> None:
        """Have the kernel's random numbers depend on these bytes, at once."""

    def set_clock(self, clock_ns: int) -> None:
        """``clock_ns``: nanoseconds since 1970."""

    def hostname(self) -> str:
        """The kernel's."""

    def set_hostname(self, hostname: str) -> None:
        """The kernel's, not that of ``/etc``."""

    def read_file(self, path: str) -> str: ...

    def write_file(self, path: str, text: str, mode: int = 0o644) -> None:
        """``mode`` is that of a file which was not there."""

    def remove_file(self, path: str) -> None:
        """Remove a file, which need not be there."""

    def run(self, command: Sequence[str]) -> int:
        """Run a program to its end; its exit code."""
        ...

    def hang_up(self, pid_file: str) -> None:
        """Have the process whose number is in a file read its configuration anew, if it is there:
        else it does so when it starts."""

    def forget_neighbours(self, device: str | None = None) -> None:
        """Forget who is who on the link of a device, if it is there, or on all links."""

    def reset_connections(self, is_to_end: Callable[[TcpConnection], bool]) -> None:
        """End those TCP connections of all network namespaces, as if the peer had reset them."""

    def sync(self) -> None:
        """Have everything that was written on the disk."""

    def grow_file_system(self, size_bytes: int) -> None:
        """Have the writable file system fill its disk, once that is as large as this."""

    def disk_usage(self) -> tuple[int, int]:
        """The bytes of the writable file system, and how many of them are in use."""
        ...

    def settle(self) -> None:
        """Wait until the processors have next to nothing to do.

        What is unfinished when a VM is frozen is the first thing that every clone does.
        """

    def listen(self, port: int) -> socket.socket:
        """A listening socket on the guest's ``localhost``."""
        ...

    def connect_to_host(self, port: int) -> socket.socket:
        """A connection to the machine that the VM runs on."""
        ...


class LinuxSystem:
    """The real one."""

    def add_entropy(self, entropy: bytes) -> None:
        """Credit the bytes to the kernel's pool, and have its generator seeded anew."""
        request = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
        descriptor = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _RNDADDENTROPY, request)
            fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
        finally:
            os.close(descriptor)

    def set_clock(self, clock_ns: int) -> None:
        time.clock_settime_ns(time.CLOCK_REALTIME, clock_ns)

    def hostname(self) -> str:
        return socket.gethostname()

    def set_hostname(self, hostname: str) -> None:
        socket.sethostname(hostname)

    def read_file(self, path: str) -> str:
        return Path(path).read_text()

    def write_file(self, path: str, text: str, mode: int = 0o644) -> None:
        # In place, not by renaming: somebody may have bind-mounted the file. And with bare system
        # calls: after a restore each layer of Python's files costs milliseconds.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def remove_file(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def run(self, command: Sequence[str]) -> int:
        try:
            return subprocess.run(
                command,
                check=False,
                timeout=_RUN_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{command[0]} did not end") from error

    def hang_up(self, pid_file: str) -> None:
        # What stands in the file may just be written.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int(self.read_file(pid_file)), signal.SIGHUP)

    def forget_neighbours(self, device: str | None = None) -> None:
        if device is None or device in {name for _, name in socket.if_nameindex()}:
            netlink.forget_neighbours(device)

    def reset_connections(self, is_to_end: Callable[[TcpConnection], bool]) -> None:
        failed: list[OSError] = []

        def everywhere() -> None:
            try:
                for namespace in netlink.network_namespaces():
                    if netlink.enter(namespace):
                        netlink.reset_connections(is_to_end)
            except OSError as error:
                failed.append(error)

        # Of its own: a thread stays in the namespace that it has entered.
        thread = threading.Thread(target=everywhere)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    def sync(self) -> None:
        os.sync()

    def grow_file_system(self, size_bytes: int) -> None:
        deadline = time.monotonic() + _GROW_TIMEOUT_S
        sectors = Path(f"/sys/class/block/{_DISK}/size")
        while (disk_bytes := int(sectors.read_text()) * 512) < size_bytes:
            if time.monotonic() > deadline:  # nothing else tells of a disk's new size
                raise TimeoutError(f"the disk still has {disk_bytes} bytes")
            time.sleep(_LOOK_EVERY_S)
        descriptor = os.open(_WRITABLE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            block_bytes = os.fstatvfs(descriptor).f_bsize
            blocks = struct.pack("Q", disk_bytes // block_bytes)
            fcntl.ioctl(descriptor, _EXT4_IOC_RESIZE_FS, blocks)  # fills it already: nothing to do
        finally:
            os.close(descriptor)

    def disk_usage(self) -> tuple[int, int]:
        found = os.statvfs(_WRITABLE)
        return found.f_blocks * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize

    def settle(self) -> None:
        deadline = time.monotonic() + _SETTLE_LIMIT_S
        calm, busy = 0, _busy_ticks()
        while calm < _SETTLE_WINDOWS and time.monotonic() < deadline:
            time.sleep(_SETTLE_WINDOW_S)
            before, busy = busy, _busy_ticks()
            calm = calm + 1 if busy - before <= 1 else 0

    def listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=64)

    def connect_to_host(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, HOST_MARK)
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect((GATEWAY, port))
        except OSError:
            sock.close()
            raise
        return sock


def _busy_ticks() -> int:
    """What all processors have worked, in ticks of 10 ms (proc_stat(5))."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(None, 8)[1:8]
    )
    return user + nice + system + irq + softirq
