"""The checks of ``warmboot doctor``: what works on this machine, what does not, and what to do.

Every check looks at the machine itself and needs no running manager.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from warmboot.hypervisors import cgroups
from warmboot.hypervisors.base import Hypervisor
from warmboot.hypervisors.cgroups import Hierarchy
from warmboot.manager.protocols import Check
from warmboot.system.disks import free_bytes
from warmboot.system.programs import look_up

_TUN = Path("/dev/net/tun")
_SETUP = "`make setup` installs it"
_TOOLS = {
    "nft": ("the firewall and port forwarding of each VM", "nftables"),
    "dnsmasq": ("name resolution inside VMs", "dnsmasq-base"),
    "nsenter": ("starting a VMM inside its network namespace", "util-linux"),
    "setpriv": ("running a VMM without privileges", "util-linux"),
    "qemu-img": ("copy-on-write disks", "qemu-utils"),
    "mke2fs": ("building runtime images", "e2fsprogs"),
    "mmdebstrap": ("building runtime images", "mmdebstrap"),
}


async def examine(
    hypervisors: Sequence[Hypervisor], root: Path, disk_floor_bytes: int, *, simulated: bool
) -> list[Check]:
    """All checks, the most basic first. What VMs need is not required where none is real."""
    checks = [
        _root_user(),
        _tun(),
        limits(cgroups.here() if os.geteuid() == 0 else None),
        await asyncio.to_thread(_room, root, disk_floor_bytes),
    ]
    checks += [_tool(name, purpose, package) for name, (purpose, package) in _TOOLS.items()]
    for hypervisor in hypervisors:
        checks += await _hypervisor(hypervisor)
    if not simulated:
        return checks
    checks = [replace(check, required=check.name == "disk") for check in checks]
    return [*checks, Check("simulated", True, "VMs are simulated, which needs nothing else")]


def isolation(wrong: Sequence[str], repairs: int) -> Check:
    """Whether the rules that confine guests are in place; only for a running manager."""
    changed = (
        f"; other programs changed them {repairs} times, and they were restored" if repairs else ""
    )
    return Check(
        "isolation",
        not wrong,
        f"the network rules of {', '.join(wrong)} are not correct"
        if wrong
        else f"the network rules are correct{changed}",
        why="guests can reach only what the rules allow; without them they can reach nothing",
        remedy="they are restored automatically: if this continues, check the manager's log, "
        "and find out which program changes them (`nft monitor`)"
        if wrong
        else "",
    )


def _root_user() -> Check:
    return Check(
        "root",
        os.geteuid() == 0,
        "running as root" if os.geteuid() == 0 else "not running as root",
        why="only root can create network namespaces and TAP devices",
        remedy="run it as root, or try it with MANAGER_HYPERVISOR=simulated",
    )


def _tun() -> Check:
    problem, remedy = "", ""
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        problem = f"{_TUN} cannot be opened: {error.strerror}"
        remedy = tun_remedy(error, os.geteuid())
    return Check(
        "tun",
        not problem,
        problem or f"{_TUN} can be opened",
        why="a VM's network interface is a TAP device",
        remedy=remedy,
    )


def tun_remedy(error: OSError, uid: int) -> str:
    """What ``uid`` can do when the device does not open."""
    if not isinstance(error, PermissionError):
        return "load the module: `modprobe tun`"
    return "run it as root" if uid else "in a container: give it access to the device"


def limits(found: Iterable[Hierarchy] | None) -> Check:
    """What VMs are held to by the ``found`` hierarchies of control groups; ``None``: by nothing."""
    why = "without them one VM can take CPU time, memory or processes from all others"
    if found is None:
        return Check(
            "limits",
            False,
            "VMs have no control groups: only root can create them",
            why=why,
            remedy="run it as root",
            required=False,
        )
    there = cgroups.usable(found)
    missing = cgroups.missing(there)
    have = cgroups.described(there) or "none"
    return Check(
        "limits",
        not missing,
        f"each VM has a control group with {have}"
        + (f"; missing: {', '.join(missing)}" if missing else ""),
        why=why,
        remedy="mount the controllers (cgroups(7)), or start the kernel without "
        "cgroup_disable=; in a container: give it a writable cgroup file system",
        required=False,
    )


def _room(root: Path, floor: int) -> Check:
    folder = root
    while not folder.exists():
        folder = folder.parent
    free = free_bytes(folder)
    return Check(
        "disk",
        free >= floor,
        f"{free >> 30} GiB are free below {root}",
        why=f"below {floor >> 20} MiB no new work is started",
        remedy="free some space, or choose another MANAGER_STORAGE_ROOT",
    )


def _tool(name: str, purpose: str, package: str) -> Check:
    found = look_up(name)
    return Check(
        name,
        found is not None,
        found or f"{name} is not installed",
        why=f"needed for {purpose}",
        remedy=f"`apt-get install {package}`, or {_SETUP}",
    )


async def _hypervisor(hypervisor: Hypervisor) -> list[Check]:
    probe = await hypervisor.probe()
    name = hypervisor.name
    checks = [
        Check(
            name,
            False,
            problem.brief,
            why=f"without it no VM can run on {name}",
            remedy=problem.resolution,
            required=name == "qemu",
        )
        for problem in probe.problems
    ]
    if probe.usable:
        linux = "" if probe.capabilities.runs_linux else ", but not with an ordinary Linux here"
        summary = f"{name} {probe.host.hypervisor_version} works{linux}"
        checks.append(
            Check(
                name,
                probe.capabilities.runs_linux,
                summary,
                why="; ".join(probe.notes),
                remedy="" if probe.capabilities.runs_linux else "use QEMU, which runs without KVM",
                required=name == "qemu",
            )
        )
        if probe.host.accelerator == "tcg":
            checks.append(
                Check(
                    "kvm",
                    False,
                    "KVM is not usable: guests are emulated (TCG)",
                    why="; ".join(probe.notes),
                    remedy="on bare metal, or with nested virtualization, they run many times "
                    "faster; without KVM, warm boots matter even more",
                    required=False,
                )
            )
    return checks
