"""The QEMU driver: probes this machine's QEMU, and boots, restores and finds VMs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from warmboot.hypervisors.base import Capabilities, MachineSnapshot, Probe, Problem
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.files import check_size, cpu_model
from warmboot.hypervisors.process import VmmProcess, start_console_log
from warmboot.hypervisors.qemu import arguments
from warmboot.hypervisors.qemu.accelerator import KvmVerdict, kvm_verdict
from warmboot.hypervisors.qemu.config import QemuConfig
from warmboot.hypervisors.qemu.vm import QemuVm
from warmboot.hypervisors.stamp import UnlessReplaced
from warmboot.hypervisors.tap import open_tap
from warmboot.model.errors import HypervisorError, NotSupported, RestoreFailed
from warmboot.model.runtime_snapshot import HostRequirements
from warmboot.model.vm import VmHandle, VmSpec
from warmboot.system.on_failure import on_failure
from warmboot.system.programs import look_up, run_program

MINIMUM_VERSION = (8, 2)  # private mapping of a RAM file that is opened read-only
SMP_MINIMUM_VERSION = (9, 0)  # below, guests with two vCPUs panic at random under TCG
ANSWER_TIMEOUT_S = 60.0
_SOCKET_PATH_LIMIT = 107


class Qemu:
    """Implements ``hypervisors.base.Hypervisor``."""

    name = "qemu"

    def __init__(
        self, config: QemuConfig | None = None, confinement: Confinement | None = None
    ) -> None:
        self.config = config or QemuConfig()
        self.confinement = confinement or Confinement()
        self._look_once = UnlessReplaced(self.config.binary, self._look)

    async def probe(self) -> Probe:
        return await self._look_once()

    async def boot(self, spec: VmSpec) -> QemuVm:
        mib = spec.shape.memory_mib
        memory = (
            arguments.anonymous_memory(mib)
            if spec.template_dir is None
            else arguments.template_memory(spec.template_dir / "snapshot.mem", mib)
        )
        async with self._started(spec, memory, []) as vm:
            return vm

    async def restore(self, spec: VmSpec, snapshot: MachineSnapshot) -> QemuVm:
        mib = spec.shape.memory_mib
        await asyncio.to_thread(_check_files, snapshot, mib)
        memory = arguments.private_memory(snapshot.memory, mib)
        try:
            extra = arguments.restore_arguments(snapshot.frozen)
            async with self._started(spec, memory, extra) as vm:
                await vm.load(snapshot.state)
                return vm
        except RestoreFailed:
            raise
        except HypervisorError as error:
            raise RestoreFailed(
                f"QEMU could not restore {spec.id}",
                details=error.details or error.brief,
                resolution="the snapshot may be damaged or from another QEMU: rebuild it",
            ) from error

    async def attach(self, spec: VmSpec, handle: VmHandle) -> QemuVm:
        vm = QemuVm(spec, self.config, VmmProcess.attach(handle), self.confinement)
        async with on_failure(vm.detach):
            await vm.connect()
        return vm

    @contextlib.asynccontextmanager
    async def _started(self, spec: VmSpec, memory: str, extra: list[str]) -> AsyncIterator[QemuVm]:
        """A connected VM, which is killed if the body raises."""
        probe = await self.probe()
        if not probe.usable:
            problem = probe.problems[0]
            raise HypervisorError(problem.brief, resolution=problem.resolution)
        if spec.shape.vcpus > probe.capabilities.max_vcpus:
            raise NotSupported(
                f"this QEMU runs {probe.capabilities.max_vcpus} vCPU reliably, "
                f"{spec.shape.vcpus} were asked for",
                resolution="install QEMU 10 (Debian: bookworm-backports)",
            )
        argv = arguments.machine_arguments(
            *(self.config, probe.host.machine, str(probe.binary), probe.host.accelerator, spec),
            memory=memory,
        )
        with contextlib.ExitStack() as inherited:
            listener = inherited.enter_context(_listening(spec.run_dir / arguments.QMP_SOCKET))
            console = await start_console_log(
                spec.run_dir / arguments.CONSOLE_LOG, spec, self.confinement
            )
            inherited.callback(console.close_pipe)
            descriptors = [listener.fileno(), console.pipe]
            if spec.nic is not None:
                descriptors.append(await open_tap(spec.nic))
                inherited.callback(os.close, descriptors[-1])
            process = await VmmProcess.spawn(
                [*argv, *extra],
                spec=spec,
                hypervisor=self.name,
                log=spec.run_dir / "vmm.log",
                inherit=descriptors,
                confinement=self.confinement,
                console=console,
            )
        vm = QemuVm(spec, self.config, process, self.confinement)
        async with on_failure(vm.kill):
            await vm.connect()
            await process.confined()
            yield vm

    async def _look(self) -> Probe:
        binary = look_up(self.config.binary)
        if binary is None:
            return _unusable(f"{self.config.binary} is not installed", "make setup installs it")
        version = await _version(binary)
        verdict = await self._kvm(binary)
        accelerator = "kvm" if verdict.usable else "tcg"
        notes = [f"accelerator {accelerator}: {verdict.reason}"]
        problems: list[Problem] = []
        numbers = tuple(int(part) for part in version.split(".")[:2])
        if numbers < MINIMUM_VERSION:
            problems.append(
                Problem(
                    f"QEMU {version} is too old to restore snapshots (8.2 or newer is needed)",
                    "make setup installs QEMU 10 (Debian: bookworm-backports)",
                )
            )
        offered = await _said(binary, "-machine", "help")
        machine = arguments.versioned_machine(self.config, offered)
        model = arguments.TCG_CPU
        if accelerator == "kvm":
            model = await asyncio.to_thread(cpu_model)
        shaky = accelerator == "tcg" and numbers < SMP_MINIMUM_VERSION
        return Probe(
            host=HostRequirements(
                hypervisor=self.name,
                hypervisor_version=version,
                accelerator=accelerator,
                machine=machine,
                cpu_model=model,
                options=arguments.machine_options(self.config, machine, accelerator),
            ),
            capabilities=Capabilities(
                qcow2_overlays=True, disk_grows=True, freezes=True, max_vcpus=1 if shaky else 32
            ),
            binary=Path(binary),
            problems=tuple(problems),
            notes=tuple(notes),
        )

    async def _kvm(self, binary: str) -> KvmVerdict:
        if self.config.accelerator == "tcg":
            return KvmVerdict(False, "TCG was asked for")
        return await kvm_verdict(binary)


async def _version(binary: str) -> str:
    found = re.search(r"version (\d+\.\d+(?:\.\d+)?)", await _said(binary, "--version"))
    return found.group(1) if found else "0.0"


async def _said(binary: str, *question: str) -> str:
    said = await run_program(
        binary, *question, check=False, timeout_s=ANSWER_TIMEOUT_S, failure=HypervisorError
    )
    return said.output


def _unusable(brief: str, resolution: str) -> Probe:
    nothing = HostRequirements("qemu", "", "", "", "")
    return Probe(host=nothing, capabilities=Capabilities(), problems=(Problem(brief, resolution),))


def _check_files(snapshot: MachineSnapshot, memory_mib: int) -> None:
    check_size(snapshot.memory, memory_mib << 20)
    check_size(snapshot.state, None)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that is bound before QEMU starts; ours is closed once QEMU has its copy."""
    if len(str(path)) > _SOCKET_PATH_LIMIT:
        raise HypervisorError(
            f"the path of the monitor's socket is too long: {path}",
            details=f"{len(str(path))} characters, {_SOCKET_PATH_LIMIT} are possible",
            resolution="choose a shorter MANAGER_STORAGE_ROOT",
        )
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
        yield listener
