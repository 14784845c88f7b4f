"""The files in the folder of a Firecracker VM.

Firecracker writes the paths of drives and of the vsock socket into a snapshot, and opens the same
paths again when the snapshot is loaded. So it is started *in* the VM's folder and is given relative
names: ``disk0``, ``disk1``, … are links to the VM's own disks, and every clone has its own. Two
clones can so never share a writable disk or a socket.
"""

from __future__ import annotations

import os
from pathlib import Path

from warmboot.model.errors import HypervisorError
from warmboot.model.vm import DiskFormat, VmSpec

API_SOCKET = "api.sock"
VSOCK_SOCKET = "vsock.sock"
VMM_LOG = "vmm.log"
CONSOLE_LOG = "console.log"

# Longest name in the folder: the guest's own connections to port N arrive at vsock.sock_N.
_LONGEST_NAME = f"{VSOCK_SOCKET}_4294967295"
_SOCKET_PATH_LIMIT = 107  # sun_path has 108 bytes, the last one zero (unix(7))
_DEFAULT_OPTIONS = {"console": "ttyS0", "reboot": "k", "panic": "1", "pci": "off"}


def drive_names(spec: VmSpec) -> list[str]:
    return [f"disk{number}" for number in range(len(spec.disks))]


def prepare(spec: VmSpec) -> None:
    """Make the links and logs; ``HypervisorError`` if something that the VM needs is not there."""
    check_socket_paths(spec.run_dir)
    for disk in spec.disks:
        if disk.format is not DiskFormat.RAW:
            raise HypervisorError(
                f"Firecracker takes raw disks only, {disk.path} is {disk.format}",
                resolution="convert it: qemu-img convert -O raw",
            )
        if not disk.path.exists():
            raise HypervisorError(f"the disk {disk.path} of VM {spec.id} is missing")
    try:
        for name in (API_SOCKET, VSOCK_SOCKET, *drive_names(spec)):
            (spec.run_dir / name).unlink(missing_ok=True)
        for name, disk in zip(drive_names(spec), spec.disks, strict=True):
            (spec.run_dir / name).symlink_to(disk.path.resolve())
        # Firecracker does not create its log, it wants to find it.
        log = spec.run_dir / VMM_LOG
        log.touch(mode=0o640)
        if spec.uid:
            os.chown(log, spec.uid, spec.gid or spec.uid)
    except OSError as error:
        raise HypervisorError(
            f"the folder {spec.run_dir} of VM {spec.id} cannot be prepared", details=str(error)
        ) from error


def check_socket_paths(run_dir: Path) -> None:
    longest = run_dir / _LONGEST_NAME
    length = len(os.fsencode(longest))
    if length > _SOCKET_PATH_LIMIT:
        raise HypervisorError(
            f"the path of the VM's sockets is too long: {run_dir}",
            details=f"{longest} has {length} bytes, {_SOCKET_PATH_LIMIT} are possible",
            resolution="choose a shorter MANAGER_STORAGE_ROOT",
        )


def boot_arguments(cmdline: str) -> str:
    """The kernel's command line: what Firecracker's devices need, unless it is set already."""
    words = cmdline.split()
    present = {word.partition("=")[0] for word in words}
    words += [f"{k}={v}" for k, v in _DEFAULT_OPTIONS.items() if k not in present]
    return " ".join(words)
