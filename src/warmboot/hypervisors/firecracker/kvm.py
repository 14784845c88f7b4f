"""Checks that KVM exists, that a VM's user may open it, and that it runs an ordinary kernel.

Three questions with three answers. On some hosts, themselves guests, ``/dev/kvm`` opens and runs
small programs, while ring-0 code is emulated so slowly and incompletely that Linux does not come
up. There the CPU shows neither ``vmx`` nor ``svm``.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from warmboot.hypervisors.files import cpu_flags

# From linux/kvm.h.
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_CREATE_VCPU = 0xAE41
_API_VERSION = 12


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    """``opens``: VMs can be made. ``runs_linux``: and an ordinary kernel runs in them."""

    opens: bool
    runs_linux: bool
    reason: str


def check(device: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> KvmVerdict:
    """Make a VM with one vCPU and throw it away; look at the CPU's flags. Never raises."""
    try:
        _make_vm(device)
    except OSError as error:
        return KvmVerdict(False, False, f"{device} is not usable: {error.strerror or error}")
    if not cpu_flags(cpuinfo) & {"vmx", "svm"}:
        return KvmVerdict(
            True,
            False,
            f"{device} makes VMs, but the CPU shows neither vmx nor svm: kernel code is emulated, "
            "and an ordinary Linux does not run",
        )
    return KvmVerdict(True, True, f"{device} makes VMs, and the CPU has virtualization")


def group_for(device: Path, uid: int, gid: int) -> int | PermissionError | None:
    """The supplementary group with which ``uid`` and ``gid`` may open the device.

    ``None``: it needs none. A ``PermissionError``: there is no such group; the device's owner has
    to give it one, as that is not ours to change.
    """
    info = device.stat()
    needed = stat.S_IROTH | stat.S_IWOTH
    if uid in (0, info.st_uid) or info.st_mode & needed == needed:
        return None
    needed = stat.S_IRGRP | stat.S_IWGRP
    if info.st_mode & needed == needed and info.st_gid != 0:
        return None if info.st_gid == gid else info.st_gid
    return PermissionError(f"{device} has mode {info.st_mode & 0o777:o}, group {info.st_gid}")


def _make_vm(device: Path) -> None:
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        version = fcntl.ioctl(kvm, _KVM_GET_API_VERSION)
        if version != _API_VERSION:
            raise OSError(f"its API has version {version}, not {_API_VERSION}")
        vm = fcntl.ioctl(kvm, _KVM_CREATE_VM, 0)
        try:
            os.close(fcntl.ioctl(vm, _KVM_CREATE_VCPU, 0))
        finally:
            os.close(vm)
    finally:
        os.close(kvm)
