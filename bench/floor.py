#!/usr/bin/env python3
"""The floor: the least that a warm boot can take on this machine.

A bare QEMU restores a snapshot of warmboot's and the script waits until the guest says that Docker
answers; nothing else: no manager, no database, no identity. Namespace and disk are made before the
clock starts. Then it is paused, and goes on. It prints the seconds of both. Standard library only,
so that there is nothing to hide behind.

    bench/floor.py SNAPSHOT_FOLDER KERNEL INITRD CMDLINE MEMORY_MIB VCPUS NAMESPACE DISK
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

GUEST = ("198.18.0.2", 1024)
GUEST_MAC = "06:00:c6:12:00:02"
HEALTH = b"GET /warmboot/v1/health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n"
TIMEOUT_S = 120.0
CPU = "max,erms=off,fsrm=off,fsrs=off,fzrm=off,fsrc=off"
"""As of warmboot's own VMs that are emulated."""
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Machine:
    """What the snapshot was made with. ``disk`` is a qcow2 overlay on the snapshot's disk."""

    snapshot: Path
    kernel: str
    initrd: str
    cmdline: str
    memory_mib: int
    vcpus: int
    namespace: Path
    disk: Path


def restore(machine: Machine) -> tuple[float, float]:
    """Seconds from starting QEMU to Docker's answer, and of a pause."""
    with tempfile.TemporaryDirectory() as folder:
        qmp_path = Path(folder) / "qmp.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(qmp_path))
            listener.listen(1)
            os.set_inheritable(listener.fileno(), True)
            started = time.perf_counter()
            vmm = subprocess.Popen(
                ["nsenter", f"--net={machine.namespace}", *_qemu(machine, listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(qmp_path))
                monitor = connection.makefile("rw")
                _load(monitor, machine.snapshot / "snapshot.state")
                _wait_for_docker(machine.namespace)
                took = time.perf_counter() - started
                return took, _pause(monitor)
        finally:
            vmm.kill()
            vmm.wait()


def _qemu(machine: Machine, qmp: int) -> list[str]:
    memory = (
        f"memory-backend-file,id=ram,size={machine.memory_mib}M,"
        f"mem-path={machine.snapshot}/snapshot.mem,share=off,readonly=on,rom=off"
    )
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *(
            "-machine",
            "q35,usb=off,vmport=off,smm=off,graphics=off,suppress-vmdesc=on,memory-backend=ram",
        ),
        *("-accel", "tcg,thread=multi,tb-size=256", "-cpu", CPU),
        *("-smp", str(machine.vcpus), "-m", str(machine.memory_mib), "-object", memory),
        *(
            "-chardev",
            f"socket,id=qmp,fd={qmp},server=on,wait=off",
            "-mon",
            "chardev=qmp,mode=control",
        ),
        *("-serial", "null", "-chardev", "null,id=console"),
        *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"),
        *(
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng",
        ),
        *("-kernel", machine.kernel, "-append", machine.cmdline),
        *("-device", "vmgenid,guid=auto", "-initrd", machine.initrd),
        "-blockdev",
        f"driver=raw,node-name=disk0,file.driver=file,file.filename={machine.snapshot}/rootfs.ext4,"
        "read-only=on,discard=unmap",
        *("-device", "virtio-blk-pci,drive=disk0"),
        "-blockdev",
        f"driver=qcow2,node-name=disk1,file.driver=file,file.filename={machine.disk},discard=unmap",
        *("-device", "virtio-blk-pci,drive=disk1"),
        *("-netdev", "tap,id=net0,ifname=tap0,script=no,downscript=no,vhost=off"),
        *("-device", f"virtio-net-pci,netdev=net0,mac={GUEST_MAC},romfile="),
        *("-incoming", "defer"),
    ]


def _load(monitor: TextIO, state: Path) -> None:
    monitor.readline()
    capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    for command, arguments in (
        ("qmp_capabilities", {}),
        ("migrate-set-capabilities", {"capabilities": capabilities}),
        ("migrate-incoming", {"uri": f"file:{state}"}),
    ):
        monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        monitor.flush()
    while '"completed"' not in (line := monitor.readline()):
        if not line or '"error"' in line:
            raise SystemExit(f"QEMU could not load the state: {line}")
    _order(monitor, "cont")


def _pause(monitor: TextIO) -> float:
    began = time.perf_counter()
    _order(monitor, "stop")
    _order(monitor, "cont")
    return time.perf_counter() - began


def _order(monitor: TextIO, command: str) -> None:
    monitor.write(json.dumps({"execute": command}) + "\n")
    monitor.flush()
    while '"return"' not in (line := monitor.readline()):
        if not line:
            raise SystemExit(f"QEMU ended before it answered {command}")


def _wait_for_docker(namespace: Path) -> None:
    """A namespace belongs to a thread, so one of its own asks."""
    done: list[bool] = []
    thread = threading.Thread(target=_ask, args=(namespace, done))
    thread.start()
    thread.join()
    if not done:
        raise SystemExit("Docker in the guest did not answer")


def _ask(namespace: Path, done: list[bool]) -> None:
    with namespace.open() as file:
        if ctypes.CDLL(None).setns(file.fileno(), _CLONE_NEWNET) != 0:
            return
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(GUEST, timeout=0.5) as connection:
                connection.settimeout(5.0)
                connection.sendall(HEALTH)
                if b'"docker": true' in b"".join(iter(lambda: connection.recv(4096), b"")):
                    done.append(True)
                    return
        except OSError:
            time.sleep(0.005)  # no connection yet: the guest does not run


def main() -> None:
    folder, kernel, initrd, cmdline, memory, vcpus, namespace, disk = sys.argv[1:]
    machine = Machine(
        Path(folder), kernel, initrd, cmdline, int(memory), int(vcpus), Path(namespace), Path(disk)
    )
    print(" ".join(f"{seconds:.5f}" for seconds in restore(machine)))


if __name__ == "__main__":
    main()
