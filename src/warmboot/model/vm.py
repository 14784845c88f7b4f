"""A VM as the host agent sees it: its spec, its record, and how its process is found again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from warmboot.model.shapes import Shape


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


class VmStatus(StrEnum):
    """``stalled``: it stands still, as the host's disk had no room for what its guest wrote."""

    RUNNING = "running"
    PAUSED = "paused"
    STALLED = "stalled"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtio block device; in order of appearance ``/dev/vda``, ``/dev/vdb``, …

    ``base`` is what an overlay lies on, and without which it is lost.
    """

    path: Path
    read_only: bool = False
    format: DiskFormat = DiskFormat.RAW
    base: Path | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """The VM's only network interface: a TAP inside a network namespace (a path)."""

    namespace: Path
    tap: str
    guest_mac: str
    guest_ip: str


@dataclass(frozen=True, slots=True)
class VmSpec:
    """What to start. The same spec (but for paths) must be given to restore what it saved.

    ``run_dir`` is the VM's own folder: sockets, logs, pid. ``template_dir`` is set for a VM that
    will be saved: the folder that receives ``snapshot.mem`` and ``snapshot.state``; hypervisors
    that keep guest RAM in a file put it there from the start. ``uid`` and ``gid`` are the user and
    group that the VMM runs as; 0 means the manager's own. A ``background`` VM gets the processor
    time that nobody else wants.
    """

    id: str
    run_dir: Path
    shape: Shape
    kernel: Path
    initrd: Path | None
    cmdline: str
    disks: tuple[Disk, ...] = ()
    nic: Nic | None = None
    template_dir: Path | None = None
    uid: int = 0
    gid: int = 0
    background: bool = False

    @property
    def files(self) -> frozenset[Path]:
        """All that it needs, and that its disk needs when it is no more."""
        disks = [path for disk in self.disks for path in (disk.path, disk.base)]
        return frozenset(path for path in (self.kernel, self.initrd, *disks) if path is not None)


@dataclass(frozen=True, slots=True)
class VmHandle:
    """Finds a VMM process again: a pid counts only together with its start time and boot id."""

    vm_id: str
    hypervisor: str
    pid: int
    start_time_ticks: int
    boot_id: str
    run_dir: Path


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """How to reach a port of the guest: over TCP from inside ``namespace``, or a vsock socket.

    Exactly one of ``namespace`` (with ``ip``) and ``vsock_socket`` is set. The latter is a
    Firecracker-style Unix socket that takes ``CONNECT <port>\\n`` and answers ``OK <n>\\n``.
    """

    port: int
    namespace: Path | None = None
    ip: str = ""
    vsock_socket: Path | None = None


class VmKind(StrEnum):
    """What a VM is for."""

    CONTAINER = "container"
    ENGINE = "engine"
    BUILDER = "builder"


@dataclass(frozen=True, slots=True)
class VmRecord:
    """A row of ``vms``: what is needed to find a VM again after the manager was killed.

    ``owner_id`` is the container or engine that has it, or the snapshot that is built in it.
    ``handle`` is ``None`` until the VMM process was started. ``slot`` is its place in the host's
    network, as the host wrote it. ``token`` is the guest agent's. ``snapshot_id`` is the snapshot
    whose files it maps, leased under the VM's ``id``.
    """

    id: str
    kind: VmKind
    owner_id: UUID
    spec: VmSpec
    token: str
    created_at: datetime
    handle: VmHandle | None = None
    slot: Mapping[str, Any] | None = None
    snapshot_id: UUID | None = None


def new_vm_id() -> str:
    return f"vm-{secrets.token_hex(6)}"
