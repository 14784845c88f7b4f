"""Current resource usage: CPU time and memory of VMs, disk space, and the warm pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from warmboot.model.runtime_snapshot import Depth
from warmboot.model.tenants.boot import BootMethod


@dataclass(frozen=True, slots=True)
class VmUsage:
    """What one VMM process uses, from ``/proc``; all counted from its start.

    ``cpu_s`` grows, so two looks give a load. ``memory_bytes`` is its proportional share (PSS): a
    page that n VMs share counts 1/n, so the sum over all VMs is what they really take.
    ``private_bytes`` is what its end would give back.
    """

    vm_id: str
    cpu_s: float
    memory_bytes: int
    private_bytes: int


@dataclass(frozen=True, slots=True)
class OwnedVm:
    """A VM's use, and whose VM it is: a container's, or a snapshot's that is being built."""

    usage: VmUsage
    kind: str
    owner_id: UUID


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """A VM's writable disk.

    ``stored_bytes`` is what it takes on the host. ``size_bytes`` and ``used_bytes`` are what the
    guest sees; ``None`` while it cannot be asked.
    """

    stored_bytes: int
    size_bytes: int | None = None
    used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ForwardedConnections:
    """What is connected to the published ports of a VM.

    ``known`` are those that are open, and for a while those that have ended, too, in words.
    """

    any_open: bool = False
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """The file system below the storage root. Nothing new is begun below the floor."""

    total_bytes: int
    free_bytes: int
    floor_bytes: int


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot that succeeded; ``reason`` is why it was cold."""

    at: datetime
    method: BootMethod
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BootSummary:
    """Boots of one method in a time. Without any, there is no median and no maximum."""

    count: int = 0
    median_s: float | None = None
    max_s: float | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """``GET /v1/system/usage``: boots are those of the last ``window_s`` seconds."""

    at: datetime
    window_s: float
    boots: Mapping[BootMethod, BootSummary]
    vms: tuple[OwnedVm, ...]
    storage: StorageUsage


@dataclass(frozen=True, slots=True)
class PooledSnapshot:
    """What the pool keeps of one snapshot: ``size`` VMs are wanted, ``ready`` are there.

    ``boots`` asked for one within the pool's window; ``image`` is that of a prepared one.
    """

    snapshot_id: UUID
    depth: Depth
    image: str | None
    ready: int
    size: int
    boots: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """``size`` is what the demand asks for and memory allows, from ``min`` to ``max``, both 0
    where the pool is off.

    ``memory_short``: it would be larger if more memory were free. ``hits`` and ``misses`` are the
    boots that found a VM in it and those that did not, ``evicted`` the VMs that were ended so that
    another had memory, all since the manager's start.
    """

    ready: int = 0
    size: int = 0
    min: int = 0
    max: int = 0
    memory_short: bool = False
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    snapshots: tuple[PooledSnapshot, ...] = ()
