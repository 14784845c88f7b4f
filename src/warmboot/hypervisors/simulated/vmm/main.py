"""Starts a simulated VM in its folder and tells the driver, over ``ready.sock``, how that went."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import threading
from pathlib import Path

from warmboot.guest.agent import Agent
from warmboot.guest.docker import Docker
from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.layout import (
    CONSOLE_LOG,
    CONTROL_SOCKET,
    DOCKER_SOCKET,
    READY_SOCKET,
    VSOCK_SOCKET,
)
from warmboot.hypervisors.simulated.vmm import snapshot
from warmboot.hypervisors.simulated.vmm.control import Control
from warmboot.hypervisors.simulated.vmm.docker.engine import Engine
from warmboot.hypervisors.simulated.vmm.docker.http import serve_connection
from warmboot.hypervisors.simulated.vmm.machine import COUNTER_OPTION, Machine
from warmboot.hypervisors.simulated.vmm.system import SimulatedSystem
from warmboot.hypervisors.simulated.vmm.vsock import Vsock

BACKLOG = 1024
THREAD_STACK_BYTES = 256 << 10
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
    engine, vsock = Engine(machine), Vsock(machine)

    async def serve_docker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve_connection(reader, writer, engine.handle)
        writer.close()

    now = machine.config
    if now.die_after_s is not None and now.die.applies(machine.origin):
        asyncio.get_running_loop().call_later(now.die_after_s, os._exit, DIED)
    for name in (CONTROL_SOCKET, DOCKER_SOCKET, VSOCK_SOCKET):
        Path(name).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as vsock_listener:
        vsock_listener.setblocking(False)
        vsock_listener.bind(VSOCK_SOCKET)
        vsock_listener.listen(BACKLOG)
        async with (
            await asyncio.start_unix_server(Control(machine).serve, CONTROL_SOCKET),
            await asyncio.start_unix_server(serve_docker, DOCKER_SOCKET, backlog=BACKLOG),
        ):
            _start_agent(machine, vsock)
            await _tell_driver({"ok": True})
            await asyncio.gather(vsock.serve(vsock_listener), _print(machine, arguments.cmdline))


def _start_agent(machine: Machine, vsock: Vsock) -> None:
    threading.stack_size(THREAD_STACK_BYTES)
    # There is no archive of the warm-up image: the simulated Docker has its image from the start.
    Agent(SimulatedSystem(machine), Docker(DOCKER_SOCKET, Path("probe.tar"))).start(vsock)


async def _print(machine: Machine, cmdline: str) -> None:
    """What the guest prints to its console."""
    if machine.origin == "boot" and COUNTER_OPTION not in cmdline.split():
        Path(CONSOLE_LOG).write_text("simulated VM: booted\n")
    await machine.count(Path(CONSOLE_LOG))


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


async def _tell_driver(news: dict[str, object]) -> None:
    """The driver may be gone already, if its manager was killed; the VM goes on all the same."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_unix_connection(READY_SOCKET)
        writer.write(json.dumps(news).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
