"""The Firecracker driver: probes this machine's Firecracker, and boots, restores and finds VMs.

spawned ──configure──▶ configured ──InstanceStart──▶ running
   └────────snapshot/load──▶ paused ──Resumed──────────▲
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from warmboot.hypervisors.base import Capabilities, MachineSnapshot, Probe, Problem
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.files import check_size, cpu_model
from warmboot.hypervisors.firecracker import binary, kvm, layout
from warmboot.hypervisors.firecracker.config import FirecrackerConfig
from warmboot.hypervisors.firecracker.pager import SOCKET, Pager, check_frames
from warmboot.hypervisors.firecracker.vm import FirecrackerVm
from warmboot.hypervisors.memory import userfault
from warmboot.hypervisors.memory.userfault import all_users_may
from warmboot.hypervisors.process import VmmProcess, start_console_log
from warmboot.hypervisors.stamp import UnlessReplaced
from warmboot.model.errors import HypervisorError, NotSupported, RestoreFailed, VmGone
from warmboot.model.runtime_snapshot import HostRequirements
from warmboot.model.vm import VmHandle, VmSpec, VmStatus
from warmboot.system.on_failure import on_failure
from warmboot.system.programs import look_up

NAME = "firecracker"
INTERFACE = "net0"
GUEST_CID = 3
MAX_VCPUS = 32


class Firecracker:
    """The Firecracker driver; implements ``hypervisors.base.Hypervisor``."""

    name = NAME

    def __init__(
        self, config: FirecrackerConfig | None = None, confinement: Confinement | None = None
    ) -> None:
        self.config = config or FirecrackerConfig()
        self.confinement = confinement or Confinement()
        self._look_once = UnlessReplaced(self.config.binary, self._look)

    async def probe(self) -> Probe:
        return (await self._look_once())[0]

    async def boot(self, spec: VmSpec) -> FirecrackerVm:
        if not spec.kernel.is_file():
            raise HypervisorError(f"the kernel {spec.kernel} of VM {spec.id} is missing")
        async with self._started(spec) as vm:
            await _configure(vm)
            await vm.api.put("/actions", {"action_type": "InstanceStart"})
            await _expect_running(vm)
            return vm

    async def restore(self, spec: VmSpec, snapshot: MachineSnapshot) -> FirecrackerVm:
        try:
            program, known = await self._program()
            await asyncio.to_thread(_check_files, snapshot, spec.shape.memory_mib)
            if snapshot.compressed:
                return await self._restore_compressed(spec, snapshot, program, known)
            await binary.check_snapshot(program, snapshot.state, known.snapshot)
            async with self._started(spec) as vm:
                await _load(vm, snapshot)
                return vm
        except RestoreFailed:
            raise
        except HypervisorError as error:
            raise RestoreFailed(
                f"Firecracker could not restore {spec.id}",
                details="\n".join(part for part in (error.brief, error.details) if part),
                resolution=error.resolution or "rebuild the snapshot",
            ) from error

    async def _restore_compressed(
        self, spec: VmSpec, snapshot: MachineSnapshot, program: Path, known: binary.Versions
    ) -> FirecrackerVm:
        groups = self._userfault_groups(spec)
        # It comes up while Firecracker does: its socket takes connections already.
        pager = await Pager.start(spec, snapshot.memory, confinement=self.confinement)
        async with (
            on_failure(lambda: self.confinement.release(spec.id)),
            on_failure(pager.kill),
        ):
            await binary.check_snapshot(program, snapshot.state, known.snapshot)
            async with self._started(spec, pager, groups) as vm:
                await pager.guard(_load(vm, snapshot))
                return vm

    async def attach(self, spec: VmSpec, handle: VmHandle) -> FirecrackerVm:
        process = VmmProcess.attach(handle)
        with on_failure(process.close):
            try:
                pager = await Pager.find(spec)
            except VmGone:
                await process.kill()  # without its pages it would hang at its next fault
                raise
        vm = FirecrackerVm(spec, self.config, process, self.confinement, pager)
        async with on_failure(vm.detach):
            if await vm.status() is VmStatus.GONE:
                _raise_gone(spec)
        return vm

    @contextlib.asynccontextmanager
    async def _started(
        self, spec: VmSpec, pager: Pager | None = None, more_groups: tuple[int, ...] = ()
    ) -> AsyncIterator[FirecrackerVm]:
        """A Firecracker that answers, which is killed if the body raises."""
        program, _ = await self._program()
        groups = self._kvm_groups(spec)
        await asyncio.to_thread(layout.prepare, spec)
        # env changes into the folder and replaces itself, so that the relative names hold.
        argv = [
            *("env", f"--chdir={spec.run_dir}", str(program)),
            *("--id", spec.id, "--api-sock", layout.API_SOCKET),
            *("--log-path", layout.VMM_LOG, "--level", "Info"),
        ]
        log = spec.run_dir / layout.CONSOLE_LOG
        console = await start_console_log(log, spec, self.confinement)
        try:
            process = await VmmProcess.spawn(
                argv,
                spec=spec,
                hypervisor=NAME,
                log=log,
                groups=(*groups, *more_groups),
                confinement=self.confinement,
                console=console,
            )
        finally:
            console.close_pipe()
        vm = FirecrackerVm(spec, self.config, process, self.confinement, pager)
        try:
            async with on_failure(vm.kill):
                await vm.api.until_listening(self.config.start_timeout_s)
                await process.confined()
                if pager is not None:
                    await pager.process.confined()
                yield vm
        except VmGone as error:
            error.details = "\n".join(filter(None, (error.details, vm.log_tail())))
            raise

    async def _program(self) -> tuple[Path, binary.Versions]:
        probe, versions = await self._look_once()
        if probe.problems or probe.binary is None or versions is None:
            problem = probe.problems[0]
            raise HypervisorError(problem.brief, resolution=problem.resolution)
        return probe.binary, versions

    def _kvm_groups(self, spec: VmSpec) -> tuple[int, ...]:
        """The least that lets the VM's user open KVM: one supplementary group, never more."""
        group = kvm.group_for(self.config.kvm, spec.uid, spec.gid or spec.uid)
        if isinstance(group, PermissionError):
            raise HypervisorError(
                f"user {spec.uid} of VM {spec.id} may not open {self.config.kvm}",
                details=str(group),
                resolution=f"chgrp kvm {self.config.kvm} && chmod 0660 {self.config.kvm}",
            )
        return () if group is None else (group,)

    def _userfault_groups(self, spec: VmSpec) -> tuple[int, ...]:
        """The same for the device that lets others serve its page faults."""
        if all_users_may():
            return ()
        group = kvm.group_for(Path(userfault.DEVICE), spec.uid, spec.gid or spec.uid)
        if isinstance(group, PermissionError):
            raise NotSupported(
                f"user {spec.uid} of VM {spec.id} may not have its pages served",
                details=str(group),
                resolution=f"chgrp kvm {userfault.DEVICE} && chmod 0660 {userfault.DEVICE}",
            )
        return () if group is None else (group,)

    async def _look(self) -> tuple[Probe, binary.Versions | None]:
        problems: list[Problem] = []
        versions = None
        path = look_up(self.config.binary)
        if path is None:
            problems.append(
                Problem(
                    f"{self.config.binary} is not installed",
                    "`make setup` installs it; or scripts/fetch_firecracker.py FOLDER fetches "
                    "it, then set MANAGER_FIRECRACKER_BINARY=FOLDER/firecracker",
                )
            )
        else:
            try:
                versions = await binary.versions(Path(path))
            except HypervisorError as error:
                problems.append(Problem(f"{error.brief}: {error.details}", error.resolution))
        verdict = await asyncio.to_thread(kvm.check, self.config.kvm)
        if not verdict.opens:
            problems.append(Problem(verdict.reason, "enable virtualization, or use QEMU"))
        probe = Probe(
            host=HostRequirements(
                hypervisor=NAME,
                hypervisor_version=versions.program if versions else "",
                accelerator="kvm",
                machine="firecracker",
                cpu_model=await asyncio.to_thread(cpu_model),
            ),
            capabilities=Capabilities(
                runs_linux=verdict.runs_linux,
                freezes=True,
                memory_frames=await asyncio.to_thread(userfault.can_serve),
                max_vcpus=MAX_VCPUS,
            ),
            binary=Path(path).resolve() if path else None,
            problems=tuple(problems),
            notes=(verdict.reason,),
        )
        return probe, versions


async def _configure(vm: FirecrackerVm) -> None:
    spec = vm.spec
    machine = {"vcpu_count": spec.shape.vcpus, "mem_size_mib": spec.shape.memory_mib}
    await vm.api.put("/machine-config", machine)
    source = {
        "kernel_image_path": str(spec.kernel.resolve()),
        "boot_args": layout.boot_arguments(spec.cmdline),
    }
    if spec.initrd is not None:
        source["initrd_path"] = str(spec.initrd.resolve())
    await vm.api.put("/boot-source", source)
    for name, disk in zip(layout.drive_names(spec), spec.disks, strict=True):
        drive = {
            "drive_id": name,
            "path_on_host": name,
            "is_root_device": False,
            "is_read_only": disk.read_only,
        }
        await vm.api.put(f"/drives/{name}", drive)
    if spec.nic is not None:
        interface = {
            "iface_id": INTERFACE,
            "guest_mac": spec.nic.guest_mac,
            "host_dev_name": spec.nic.tap,
        }
        await vm.api.put(f"/network-interfaces/{INTERFACE}", interface)
    await vm.api.put("/vsock", {"guest_cid": GUEST_CID, "uds_path": layout.VSOCK_SOCKET})
    await vm.api.put("/entropy", {})


async def _load(vm: FirecrackerVm, snapshot: MachineSnapshot) -> None:
    """Load the snapshot, check that it is of this spec's machine, and let it run on."""
    spec = vm.spec
    body: dict[str, object] = {
        "snapshot_path": str(snapshot.state.resolve()),
        "mem_backend": _memory_backend(snapshot),
        # Said outright, as a VM that was loaded and never resumed answers nothing for ever.
        "resume_vm": False,
    }
    if spec.nic is not None:
        override = {"iface_id": INTERFACE, "host_dev_name": spec.nic.tap}
        body["network_overrides"] = [override]
    await vm.api.put("/snapshot/load", body)
    config = await vm.api.get("/vm/config")
    wanted = {
        "vCPUs": spec.shape.vcpus,
        "disks": [(name, name) for name in layout.drive_names(spec)],
        "network interfaces": 0 if spec.nic is None else 1,
    }
    loaded = {
        "vCPUs": config["machine-config"]["vcpu_count"],
        "disks": sorted((d["drive_id"], d["path_on_host"]) for d in config["drives"]),
        "network interfaces": len(config["network-interfaces"]),
    }
    for what, value in wanted.items():
        if loaded[what] != value:
            raise RestoreFailed(
                f"the snapshot is of another machine than {spec.id}",
                details=f"{what}: {loaded[what]} in the snapshot, {value} wanted",
                resolution="restore it with the spec that it was saved with",
            )
    await vm.resume()
    await _expect_running(vm)


def _memory_backend(snapshot: MachineSnapshot) -> dict[str, str]:
    if snapshot.compressed:
        return {"backend_type": "Uffd", "backend_path": SOCKET}
    return {"backend_type": "File", "backend_path": str(snapshot.memory.resolve())}


async def _expect_running(vm: FirecrackerVm) -> None:
    status = await vm.status()
    if status is not VmStatus.RUNNING:
        raise HypervisorError(f"{vm.spec.id} is {status} after its start", details=vm.log_tail())


def _raise_gone(spec: VmSpec) -> None:
    raise VmGone(f"VM {spec.id} is gone")


def _check_files(snapshot: MachineSnapshot, memory_mib: int) -> None:
    if snapshot.compressed:
        check_frames(snapshot.memory, memory_mib)
    else:
        check_size(snapshot.memory, memory_mib << 20)
    check_size(snapshot.state, None)
