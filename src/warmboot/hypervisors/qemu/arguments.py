"""QEMU's command line.

A restored machine must be built from the same arguments as the saved one: both come from
``machine_arguments``, and only what ``private_memory`` and ``restore_arguments`` give differs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

from warmboot.hypervisors.process import FIRST_FD
from warmboot.hypervisors.qemu.config import Machine, QemuConfig
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, Nic, VmSpec

CONSOLE_LOG = "console.log"
QMP_SOCKET = "qmp.sock"

# What QEMU inherits, in this order.
_QMP_FD, _CONSOLE_FD, _TAP_FD = FIRST_FD, FIRST_FD + 1, FIRST_FD + 2

# Descriptors that QEMU opens by a path of its own, as often as it likes.
_CONSOLE_SET = 1

TCG_CPU = "max"
TCG_CPU_OPTIONS = f"{TCG_CPU},erms=off,fsrm=off,fsrs=off,fzrm=off,fsrc=off"
"""What copies and clears strings fast on a real CPU does it byte by byte where that is emulated:
without it the kernel and its programs use loops of wide moves, and boot in half the time."""

_TALKATIVE = "loglevel=7 earlyprintk=ttyS0,115200"
"""The kernel says where it is on its way up: on the serial port until its console is there. The
level comes first, as what the kernel has said so far is printed when the port is opened."""

# A state has no description of itself: who restores it knows from what machine it is.
_MACHINE_OPTIONS = {
    Machine.Q35: "usb=off,vmport=off,smm=off,graphics=off,suppress-vmdesc=on",
    Machine.MICROVM: "acpi=on,rtc=on,pic=on,pit=on,isa-serial=on,suppress-vmdesc=on",
}


def versioned_machine(config: QemuConfig, offered: str) -> str:
    """The type of machine that its name means to this QEMU, from what ``-machine help`` prints: a
    newer one of the same name may have other devices. Its own name where it has no versions."""
    found = re.search(rf"^{config.machine}\s.*\(alias of (\S+)\)", offered, re.MULTILINE)
    return found.group(1) if found else config.machine.value


def machine_arguments(
    config: QemuConfig, machine: str, binary: str, accelerator: str, spec: VmSpec, *, memory: str
) -> list[str]:
    """The machine itself, of the versioned type ``machine``; ``memory`` is the ``-object`` that
    holds guest RAM under the id ram."""
    bus = "pci" if config.machine is Machine.Q35 else "device"
    acceleration = (
        f"tcg,thread=multi,tb-size={config.translation_cache_mib}"
        if accelerator == "tcg"
        else accelerator
    )
    arguments = [
        binary,
        *("-name", spec.id),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", f"{machine},{_MACHINE_OPTIONS[config.machine]},memory-backend=ram"),
        *("-accel", acceleration),
        *("-cpu", TCG_CPU_OPTIONS if accelerator == "tcg" else "host"),
        *("-smp", str(spec.shape.vcpus)),
        *("-m", str(spec.shape.memory_mib)),
        *("-object", memory),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-chardev", f"socket,id=qmp,fd={_QMP_FD},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-add-fd", f"fd={_CONSOLE_FD},set={_CONSOLE_SET},opaque=console"),
        # Both to one log; append, as a pipe cannot be cut to length when it is opened.
        *("-chardev", f"file,id=serial,path=/dev/fdset/{_CONSOLE_SET},append=on"),
        *("-serial", "chardev:serial"),
        *("-chardev", f"file,id=console,path=/dev/fdset/{_CONSOLE_SET},append=on"),
        *("-device", f"virtio-serial-{bus}"),
        *("-device", "virtconsole,chardev=console"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", f"virtio-rng-{bus},rng=rng"),
        *("-kernel", str(spec.kernel)),
        *("-append", f"{spec.cmdline} {_TALKATIVE} console=hvc0 panic=-1".strip()),
    ]
    if config.machine is Machine.Q35:
        arguments += ["-device", "vmgenid,guid=auto"]
    if spec.initrd is not None:
        arguments += ["-initrd", str(spec.initrd)]
    for number, disk in enumerate(spec.disks):
        arguments += _disk_arguments(number, disk, bus)
    if spec.nic is not None:
        arguments += [
            "-netdev",
            f"tap,id=net0,fd={_TAP_FD},vhost=off",
            "-device",
            f"virtio-net-{bus},netdev=net0,mac={spec.nic.guest_mac}"
            + (",romfile=" if bus == "pci" else ""),
        ]
    return arguments


def machine_options(config: QemuConfig, machine: str, accelerator: str) -> str:
    """The machine and its devices, as far as a saved state depends on them.

    The machine's own options in words, and a sum over all arguments of a VM with one of everything.
    Left out are names, the sandbox, and how QEMU emulates: they may differ.
    """
    folder = Path("/vm")
    spec = VmSpec(
        id="vm",
        run_dir=folder,
        shape=Shape(1, 256),
        kernel=folder / "kernel",
        initrd=folder / "initrd",
        cmdline="",
        disks=(Disk(folder / "rootfs", read_only=True), Disk(folder / "disk")),
        nic=Nic(folder / "netns", "tap", "06:00:00:00:00:01", "172.16.0.2"),
    )
    whole = machine_arguments(
        config, machine, "qemu", accelerator, spec, memory=anonymous_memory(256)
    )
    pairs = itertools.pairwise(whole)
    kept = [(flag, value) for flag, value in pairs if flag in ("-machine", "-cpu", "-device")]
    digest = hashlib.sha256(repr(kept).encode()).hexdigest()[:12]
    return f"{machine},{_MACHINE_OPTIONS[config.machine]} devices {digest}"


def template_memory(path: Path, memory_mib: int) -> str:
    """RAM in a file, mapped shared: what a template boots with."""
    return f"memory-backend-file,id=ram,size={memory_mib}M,mem-path={path},share=on"


def private_memory(path: Path, memory_mib: int) -> str:
    """The same file mapped private and opened for reading only."""
    return (
        f"memory-backend-file,id=ram,size={memory_mib}M,mem-path={path},"
        "share=off,readonly=on,rom=off"
    )


def anonymous_memory(memory_mib: int) -> str:
    """RAM of a VM that will never be saved."""
    return f"memory-backend-ram,id=ram,size={memory_mib}M"


def restore_arguments(frozen: bool) -> list[str]:
    """Come up without a state, and wait for the order to load one. That of a frozen machine has no
    section about the configuration."""
    without = ["-global", "migration.send-configuration=off"] if frozen else []
    return ["-incoming", "defer", *without]


def _disk_arguments(number: int, disk: Disk, bus: str) -> list[str]:
    node = f"disk{number}"
    drive = blockdev(node, disk.path, disk.format, read_only=disk.read_only)
    return ["-blockdev", json.dumps(drive), "-device", f"virtio-blk-{bus},drive={node}"]


def blockdev(node: str, path: Path, form: DiskFormat, *, read_only: bool) -> dict[str, Any]:
    """A block device's description. What the guest frees, or fills with zeros, is given back to the
    host."""
    zeros = {} if read_only else {"detect-zeroes": "unmap"}
    return {
        "driver": form.value,
        "node-name": node,
        "file": {"driver": "file", "filename": str(path)},
        "read-only": read_only,
        "discard": "unmap",
        **zeros,
    }
