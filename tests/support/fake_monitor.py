"""A monitor as QEMU's (QMP), of a process that does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.process import VmmProcess, boot_id, start_time_ticks
from warmboot.hypervisors.qemu import QemuConfig
from warmboot.hypervisors.qemu.arguments import QMP_SOCKET
from warmboot.hypervisors.qemu.vm import QemuVm
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, VmHandle, VmSpec

_MEMORY_MIB = 256
_RAM = f"  ram  4 KiB  0x0 0x{_MEMORY_MIB << 20:x} 0x{_MEMORY_MIB << 20:x} 0x7f0000000000\n"
_GREETING = {"QMP": {"version": {"qemu": {"major": 10}, "package": ""}, "capabilities": []}}


class FakeMonitor:
    """Answers in order, as QEMU does: one of ``silent_at`` keeps all after it waiting."""

    def __init__(self, disk: Disk, silent_at: Collection[str]) -> None:
        self.silent_at = set(silent_at)
        self.told: list[str] = []
        self.nodes: list[str] = []
        """Of those that are opened, any that is not in use."""
        self._disk = disk
        self._status = "running"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            _send(writer, _GREETING)
            async for asked in _orders(reader):
                self.told.append(asked["execute"])
                if asked["execute"] in self.silent_at:
                    await reader.read()
                    return
                answer = {"return": self._answer(asked["execute"], asked.get("arguments") or {})}
                _send(writer, answer | {"id": asked["id"]} if "id" in asked else answer)

    def _answer(self, command: str, arguments: dict[str, Any]) -> Any:
        if command in ("stop", "cont"):
            self._status = "paused" if command == "stop" else "running"
        if command == "query-status":
            return {"status": self._status}
        if command == "query-block":
            return [{"inserted": {"ro": False, "node-name": "disk", "file": str(self._disk.path)}}]
        if command == "query-named-block-nodes":
            return [{"node-name": name} for name in ("disk", *self.nodes)]
        if command == "blockdev-add":
            self.nodes.append(arguments["node-name"])
        if command == "blockdev-del":
            self.nodes.remove(arguments["node-name"])
        if command == "x-query-ramblock":
            return {"human-readable-text": _RAM}
        return {}


@contextlib.asynccontextmanager
async def monitored(
    folder: Path,
    disk: Disk,
    silent_at: Collection[str] = (),
    answer_timeout_s: float = 60.0,
    kind: type[QemuVm] = QemuVm,
) -> AsyncIterator[tuple[QemuVm, FakeMonitor]]:
    """A VM with such a monitor, and that; ``folder`` has a short name."""
    monitor = FakeMonitor(disk, silent_at)
    server = await asyncio.start_unix_server(monitor.serve, folder / QMP_SOCKET)
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        spec = VmSpec("vm-1", folder, Shape(1, _MEMORY_MIB), Path("k"), None, "", disks=(disk,))
        began = start_time_ticks(process.pid)
        assert began is not None
        handle = VmHandle("vm-1", "qemu", process.pid, began, boot_id(), folder)
        config = QemuConfig(answer_timeout_s=answer_timeout_s)
        vm = kind(spec, config, VmmProcess.attach(handle), Confinement())
        await vm.connect()
        try:
            yield vm, monitor
        finally:
            await vm.detach()
    finally:
        server.close()
        process.kill()
        await process.wait()


async def _orders(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    """What is asked, which no line ends."""
    left = ""
    while piece := await reader.read(1 << 16):
        left += piece.decode()
        while left := left.lstrip():
            try:
                order, end = json.JSONDecoder().raw_decode(left)
            except ValueError:  # the rest of it is to come
                break
            left = left[end:]
            yield order


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
