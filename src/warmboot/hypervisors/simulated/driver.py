"""Starting, restoring and finding simulated VMs.

A simulated VM is a small process of its own (``vmm``). The real guest agent runs in it, on a
machine and with a Docker that are simulated, and is reached over a vsock-like Unix socket. It can
be paused, saved, restored, killed and found again like a real one, and needs neither root nor KVM.
Nothing of the user's runs in it: containers understand a handful of commands. Delays and faults are
set by ``SimulatedConfig``, and may be changed while VMs run through its ``overrides`` file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from warmboot.hypervisors.base import Capabilities, MachineSnapshot, Probe, Problem
from warmboot.hypervisors.files import tail
from warmboot.hypervisors.process import VmmProcess
from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.fork_server import FORK_SERVER, command
from warmboot.hypervisors.simulated.layout import CONTROL_SOCKET, READY_SOCKET, VMM_LOG
from warmboot.hypervisors.simulated.vm import SimulatedVm
from warmboot.model.errors import HypervisorError, RestoreFailed
from warmboot.model.runtime_snapshot import HostRequirements
from warmboot.model.vm import VmHandle, VmSpec
from warmboot.system.concurrency import race
from warmboot.system.on_failure import on_failure

NAME = "simulated"
START_TIMEOUT_S = 30.0
SOCKET_PATH_MAX = 107
NEWS_GRACE_S = 1.0


class Simulated:
    """The driver. It keeps nothing about its VMs: all is in their processes and folders."""

    name = NAME

    def __init__(self, config: SimulatedConfig | None = None) -> None:
        self._config = config or SimulatedConfig()

    async def probe(self) -> Probe:
        """Look at the machine, every time anew: overrides may change what is found."""
        config = self._config
        problems: tuple[Problem, ...] = ()
        try:
            config = self._config.current()
        except ValueError as error:
            problems = (Problem(str(error), "correct or delete the overrides file"),)
        return Probe(
            host=HostRequirements(
                hypervisor=NAME,
                hypervisor_version=config.version,
                accelerator=config.accelerator,
                machine=config.machine,
                cpu_model=config.cpu_model,
            ),
            capabilities=Capabilities(
                vsock=True, network=False, lazy_memory=False, disk_grows=True, freezes=True
            ),
            binary=Path(sys.executable),
            problems=problems,
            notes=("simulated: containers do not really run",),
        )

    async def boot(self, spec: VmSpec) -> SimulatedVm:
        if self._current().fail_boot:
            raise HypervisorError(
                f"VM {spec.id} could not be booted", details="the fault fail_boot is set"
            )
        return await self._start(spec, None)

    async def restore(self, spec: VmSpec, snapshot: MachineSnapshot) -> SimulatedVm:
        if self._current().fail_restore:
            raise RestoreFailed(
                f"VM {spec.id} could not be restored", details="the fault fail_restore is set"
            )
        try:
            return await self._start(spec, snapshot)
        except RestoreFailed:
            raise
        except HypervisorError as error:
            raise RestoreFailed(
                f"VM {spec.id} could not be restored",
                details=str(error),
                resolution=error.resolution,
            ) from error

    async def attach(self, spec: VmSpec, handle: VmHandle) -> SimulatedVm:
        vm = SimulatedVm(spec, VmmProcess.attach(handle))
        async with on_failure(vm.detach):
            await vm.answers()
        return vm

    def _current(self) -> SimulatedConfig:
        try:
            return self._config.current()
        except ValueError as error:
            raise HypervisorError("the simulated faults are not usable", details=str(error)) from (
                error
            )

    async def _start(self, spec: VmSpec, snapshot: MachineSnapshot | None) -> SimulatedVm:
        _check_files(spec)
        argv = [
            *("--id", spec.id, "--run-dir", str(spec.run_dir.resolve())),
            *("--shape", f"{spec.shape.vcpus},{spec.shape.memory_mib}"),
            *("--cmdline", spec.cmdline, "--config", self._config.to_json()),
        ]
        if snapshot is not None:
            argv += ["--restore", str(snapshot.memory.resolve()), str(snapshot.state.resolve())]
        log = spec.run_dir / VMM_LOG
        async with _ready_socket(spec) as news:
            if spec.uid:  # it is dropped to by a program that comes before its own
                argv = command(*argv)
                process = await VmmProcess.spawn(argv, spec=spec, hypervisor=NAME, log=log)
            else:
                fork = partial(FORK_SERVER.fork, argv, log)
                process = await VmmProcess.forked(fork, spec=spec, hypervisor=NAME)
            async with on_failure(process.kill):
                await _wait_ready(spec, process, news, log)
        return SimulatedVm(spec, process)


def _check_files(spec: VmSpec) -> None:
    wanted = [spec.kernel, *(disk.path for disk in spec.disks)]
    if spec.initrd is not None:
        wanted.append(spec.initrd)
    for path in wanted:
        if not path.is_file():
            raise HypervisorError(f"{path} of VM {spec.id} is missing")
    longest = spec.run_dir / CONTROL_SOCKET
    if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
        raise HypervisorError(
            f"the folder of VM {spec.id} has too long a path",
            details=f"{longest} has more than the {SOCKET_PATH_MAX} bytes that a socket may have",
            resolution="use a shorter storage root",
        )


@contextlib.asynccontextmanager
async def _ready_socket(spec: VmSpec) -> AsyncIterator[asyncio.Future[dict[str, Any]]]:
    """Bound before the process starts, so that its news cannot be missed."""
    news: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.close()
        if line and not news.done():
            news.set_result(json.loads(line))

    path = spec.run_dir / READY_SOCKET
    path.unlink(missing_ok=True)
    try:
        server = await asyncio.start_unix_server(hear, path)
    except OSError as error:
        raise HypervisorError(f"{path} cannot be listened on", details=str(error)) from error
    try:
        if spec.uid:
            os.chown(path, spec.uid, spec.gid or spec.uid)
        yield news
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _wait_ready(
    spec: VmSpec, process: VmmProcess, news: asyncio.Future[dict[str, Any]], log: Path
) -> None:
    _, died = await race(asyncio.shield(news), process.wait(), timeout_s=START_TIMEOUT_S)
    if died is not None:  # its last words may still be in the socket
        await asyncio.wait({news}, timeout=NEWS_GRACE_S)
    if not news.done():
        how = "ended at once" if not process.alive else f"was not up in {START_TIMEOUT_S:g} s"
        raise HypervisorError(f"the simulated VM {spec.id} {how}", details=tail(log))
    if "error" in news.result():
        raise RestoreFailed(
            f"VM {spec.id} could not be restored",
            details=news.result()["error"],
            resolution="rebuild the snapshot",
        )
