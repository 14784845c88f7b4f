"""The machine that a simulated VM's guest agent finds: everything is in the VM's RAM.

Only the machine's own thread changes the RAM, and not while the machine is paused, so that it can
be saved at any moment.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from warmboot.guest.netlink import TcpConnection
from warmboot.hypervisors.simulated.vmm.machine import Machine

Ram = dict[str, Any]


class SimulatedSystem:
    """``warmboot.guest.system.System``, for the agent's threads. Files, rules and names are kept;
    programs do nothing else.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._loop = asyncio.get_running_loop()

    def add_entropy(self, entropy: bytes) -> None:
        self._change(lambda ram: ram.update(entropy=entropy.hex()))

    def set_clock(self, clock_ns: int) -> None:
        self._change(lambda ram: ram.update(clock_ns=clock_ns))

    def hostname(self) -> str:
        return str(self._machine.ram["hostname"])

    def set_hostname(self, hostname: str) -> None:
        self._change(lambda ram: ram.update(hostname=hostname))

    def read_file(self, path: str) -> str:
        try:
            return str(self._machine.ram["files"][path])
        except KeyError:
            raise FileNotFoundError(path) from None

    def write_file(self, path: str, text: str, mode: int = 0o644) -> None:
        self._change(lambda ram: ram["files"].update({path: text}), on_disk=True)

    def remove_file(self, path: str) -> None:
        self._change(lambda ram: ram["files"].pop(path, None), on_disk=True)

    def run(self, command: Sequence[str]) -> int:
        program, *arguments = command
        if not program.endswith("/iptables"):
            return 0
        _, _, table, action, chain, *rule = arguments  # --wait -t TABLE -A CHAIN RULE…
        kept = [table, chain, *rule]
        if action == "-C":
            return 0 if kept in self._machine.ram["firewall"] else 1
        if action == "-D":
            if kept not in self._machine.ram["firewall"]:
                return 1
            self._change(lambda ram: ram["firewall"].remove(kept))
            return 0
        self._change(lambda ram: ram["firewall"].append(kept))
        return 0

    def hang_up(self, pid_file: str) -> None:
        """Its Docker reads no configuration."""

    def forget_neighbours(self, device: str | None = None) -> None:
        """It has no link."""

    def reset_connections(self, is_to_end: Callable[[TcpConnection], bool]) -> None:
        """It has none."""

    def sync(self) -> None:
        self._change(lambda ram: None, on_disk=True)

    def grow_file_system(self, size_bytes: int) -> None:
        self._change(lambda ram: ram.update(disk_bytes=size_bytes))

    def disk_usage(self) -> tuple[int, int]:
        return int(self._machine.ram.get("disk_bytes", 0)), 0

    def settle(self) -> None:
        """Nothing goes on in it."""

    def listen(self, port: int) -> socket.socket:
        """Listen at an address that nobody knows: the guest's ``localhost`` is not the host's."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("")
        listener.listen()
        return listener

    def connect_to_host(self, port: int) -> socket.socket:
        raise ConnectionRefusedError("a simulated VM has no network")

    def _change(self, change: Callable[[Ram], object], *, on_disk: bool = False) -> None:
        """``on_disk``: the machine stalls while the host has no room for it."""

        async def run() -> None:
            await (self._machine.write() if on_disk else self._machine.clock.running())
            change(self._machine.ram)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()
