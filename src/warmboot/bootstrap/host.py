"""The wiring of the host agent: a hypervisor, a network, and where its files lie."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from warmboot.api.http.listeners import gid_of
from warmboot.host.agent import HostAgent
from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network, NetworkConfig, uids
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.vm.vm_files import VMM_GID
from warmboot.hypervisors import cgroups
from warmboot.hypervisors.base import Hypervisor
from warmboot.hypervisors.cgroups import Cgroups
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.hypervisors.qemu import Qemu, QemuConfig
from warmboot.hypervisors.qemu.config import Machine
from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.driver import Simulated
from warmboot.model.tenants.registry_mirror import RegistryMirror
from warmboot.settings import Settings


async def host_agent(settings: Settings, run_folder: Path) -> HostAgent:
    """The host agent, not started yet: which VMs are to be adopted is known to the
    reconciliation.
    """
    root, mirror = settings.storage_root, settings.registry_mirror
    confinement = _confinement_of(settings)
    hypervisor = _hypervisor_of(settings, confinement)
    return HostAgent(
        HostConfig(
            root,
            run_folder,
            gid_of(settings.socket_group),
            disk_floor_bytes=settings.disk_floor_mib << 20,
            memory_cache_bytes=settings.cache_budget_mib << 20,
            pull_silence_s=settings.pull_silence_s,
            silent_after_s=settings.unresponsive_after_s,
            registry_mirror=RegistryMirror(mirror) if mirror else None,
        ),
        hypervisor,
        await _network_of(settings, hypervisor),
        SnapshotFiles(root / "runtime-snapshots", VMM_GID),
        confinement,
    )


def all_hypervisors(settings: Settings) -> Sequence[Hypervisor]:
    return (
        _hypervisor_of(settings.model_copy(update={"hypervisor": "qemu"})),
        _hypervisor_of(settings.model_copy(update={"hypervisor": "firecracker"})),
    )


def _confinement_of(settings: Settings) -> Confinement:
    """Without control groups for one who may not make them, and for VMs that are none."""
    if os.geteuid() != 0 or settings.hypervisor == "simulated":
        return Confinement()
    return Confinement(
        Cgroups(settings.network_prefix, cgroups.here()),
        overhead_mib=settings.vm_overhead_mib,
        console_bytes=settings.console_log_mib << 20,
    )


def _hypervisor_of(settings: Settings, confinement: Confinement | None = None) -> Hypervisor:
    """The chosen driver; ``auto`` is QEMU, which runs everywhere."""
    if settings.hypervisor == "simulated":
        return Simulated(SimulatedConfig(overrides=settings.simulation))
    if settings.hypervisor == "firecracker":
        return Firecracker(FirecrackerConfig(binary=settings.firecracker_binary), confinement)
    return Qemu(
        QemuConfig(
            binary=settings.qemu_binary,
            machine=Machine(settings.qemu_machine),
            accelerator=settings.qemu_accelerator,
        ),
        confinement,
    )


def _uid_base(prefix: str) -> int:
    return uids.reserve(prefix) if os.geteuid() == 0 else VMM_GID


async def _network_of(settings: Settings, hypervisor: Hypervisor) -> Network | None:
    if not (await hypervisor.probe()).capabilities.network:
        return None
    return Network(
        NetworkConfig(
            state_dir=settings.storage_root / "network",
            prefix=settings.network_prefix,
            subnet=settings.network_subnet,
            pool_size=settings.network_pool_size,
            resolv_conf=settings.resolv_conf,
            publish_address=settings.publish_address,
            uid_base=await asyncio.to_thread(_uid_base, settings.network_prefix),
        )
    )
