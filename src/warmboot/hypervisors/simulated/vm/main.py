"""Starts a simulated VM in its folder and tells the driver, over ``ready.sock``, how that went."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from pathlib import Path

from warmboot.hypervisors.simulated.vm import snapshot
from warmboot.hypervisors.simulated.vm.agent import Agent
from warmboot.hypervisors.simulated.vm.config import SimulatedConfig
from warmboot.hypervisors.simulated.vm.control import Control
from warmboot.hypervisors.simulated.vm.http import serve_connection
from warmboot.hypervisors.simulated.vm.machine import COUNTER_OPTION, Machine

CONTROL_SOCKET, VSOCK_SOCKET, READY_SOCKET = "control.sock", "vsock.sock", "ready.sock"
CONSOLE_LOG = "console.log"
DIED = 70
"""Exit status of a VMM that ended by the fault ``die_after_s``."""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="warmboot-simulated-vm")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--shape", required=True, help="vCPUs,MiB")
    parser.add_argument("--cmdline", default="")
    parser.add_argument("--config", required=True, help="a SimulatedConfig as JSON")
    parser.add_argument("--restore", nargs=2, type=Path, metavar=("MEMORY", "STATE"))
    parser.add_argument("--id", required=True, help="shown in ps only")
    arguments = parser.parse_args(argv)
    os.chdir(arguments.run_dir)  # socket names stay short: a path in a socket has 107 bytes
    asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> None:
    config = SimulatedConfig.from_json(arguments.config)
    vcpus, memory_mib = arguments.shape.split(",")
    try:
        machine = await _make_machine(arguments, config, (int(vcpus), int(memory_mib)))
    except snapshot.SnapshotUnusable as error:
        await _tell_driver({"error": str(error)})
        return
    agent = Agent(machine)

    async def serve_vsock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await _serve_vsock(machine, agent, reader, writer)
        writer.close()

    now = machine.config
    if now.die_after_s is not None and now.die.applies(machine.origin):
        asyncio.get_running_loop().call_later(now.die_after_s, os._exit, DIED)
    for name in (CONTROL_SOCKET, VSOCK_SOCKET):
        Path(name).unlink(missing_ok=True)
    async with (
        await asyncio.start_unix_server(Control(machine).serve, CONTROL_SOCKET),
        await asyncio.start_unix_server(serve_vsock, VSOCK_SOCKET),
    ):
        await _tell_driver({"ok": True})
        if machine.origin == "boot" and COUNTER_OPTION not in arguments.cmdline.split():
            Path(CONSOLE_LOG).write_text("simulated VM: booted\n")
        await machine.count(Path(CONSOLE_LOG))
        await asyncio.Event().wait()


async def _make_machine(
    arguments: argparse.Namespace, config: SimulatedConfig, shape: tuple[int, int]
) -> Machine:
    if arguments.restore is None:
        return Machine(config, shape, arguments.cmdline, None)
    now = config.current()
    memory, state = arguments.restore
    saved = snapshot.read(memory, state, version=now.version, shape=shape)
    await asyncio.sleep(now.restore_s)
    return Machine(config, shape, arguments.cmdline, saved)


async def _serve_vsock(
    machine: Machine, agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Firecracker's host side of vsock: ``CONNECT <port>``, ``OK <n>``, then the guest's bytes.

    As there, the connection is closed while nothing listens in the guest.
    """
    words = (await reader.readline()).split()
    await machine.clock.running()
    if len(words) != 2 or words[0] != b"CONNECT" or not words[1].isdigit():
        return
    if machine.clock.now() < machine.config.boot_s:
        return
    writer.write(b"OK 1073741824\n")
    await writer.drain()
    if machine.agent_silent:
        while await reader.read(65536):
            pass
        return
    await serve_connection(reader, writer, agent.handle)


async def _tell_driver(news: dict[str, object]) -> None:
    """The driver may be gone already, if its manager was killed; the VM goes on all the same."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_unix_connection(READY_SOCKET)
        writer.write(json.dumps(news).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
