"""A Docker engine of one's own: a VM whose dockerd is reached through a Unix socket on the host.

    creating ──▶ running ──▶ stopped                 running ⇄ paused, which ends as running does
        │           │           │ start: creating again, on the same disk
        ▼           ▼           ▼
      failed ◀──────┘      deleting ──▶ (gone)        deleting is reached from everywhere

    running ──▶ parking ──▶ parked ──▶ waking ──▶ running

``running`` means that its Docker answers; of a ``paused`` one the VM stands still in memory, of a
``parked`` one the memory is on the disk, and there is no VM. A
stopped one has no VM, and keeps its disk: its images, containers and volumes. So does one that has
failed after it ran once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from warmboot.model.container import PortMapping
from warmboot.model.conventions.names import hostname_for
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import (
    AsAsked,
    BootAttempt,
    BootMethod,
    BootPolicy,
    FallbackReason,
    StageTiming,
)
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.transitions import Transitions
from warmboot.model.vm import VmKind


class EngineState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    PARKING = "parking"
    PARKED = "parked"
    WAKING = "waking"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETING = "deleting"


ENGINE_TRANSITIONS = Transitions(
    "engine",
    {
        EngineState.CREATING: frozenset(
            {EngineState.RUNNING, EngineState.FAILED, EngineState.DELETING}
        ),
        EngineState.RUNNING: frozenset(
            {
                EngineState.PAUSED,
                EngineState.PARKING,
                EngineState.STOPPED,
                EngineState.FAILED,
                EngineState.DELETING,
            }
        ),
        EngineState.PAUSED: frozenset(
            {
                EngineState.RUNNING,
                EngineState.STOPPED,
                EngineState.FAILED,
                EngineState.DELETING,
            }
        ),
        EngineState.PARKING: frozenset(
            {
                EngineState.RUNNING,
                EngineState.PARKED,
                EngineState.FAILED,
                EngineState.DELETING,
            }
        ),
        EngineState.PARKED: frozenset({EngineState.WAKING, EngineState.DELETING}),
        EngineState.WAKING: frozenset(
            {EngineState.RUNNING, EngineState.PARKED, EngineState.DELETING}
        ),
        EngineState.STOPPED: frozenset({EngineState.CREATING, EngineState.DELETING}),
        EngineState.FAILED: frozenset({EngineState.CREATING, EngineState.DELETING}),
        EngineState.DELETING: frozenset(),
    },
)

LIVING = frozenset(EngineState) - {EngineState.STOPPED, EngineState.FAILED, EngineState.DELETING}
"""Those in which something runs, stands still or is about to run."""

IN_VM = frozenset({EngineState.RUNNING, EngineState.PAUSED, EngineState.PARKING})
"""Those that have a VM with a Docker in it."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this host: a pid counts only together with its start time (proc(5))."""

    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An address of this host, and a port of it."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a client of an engine needs over TCP, in PEM: whom it trusts, and who it is."""

    authority: str
    certificate: str
    key: str = field(repr=False)
    expires_at: datetime
    """When the first of them, or of the engine's own, is not valid any more."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What was asked for.

    ``owner_uid`` is the user of this host who gets the socket, and with it root in the VM.
    ``shape`` is ``None`` for the default one. ``auto_remove``: it goes when it has been stopped or
    its VM has died. ``time_to_live_s``: it goes that long after it was created. ``holder``: it goes
    when this process has ended. ``host_ports``: ports of the host's 127.0.0.1 that it may reach.
    ``disk_mib`` is the size of its disk; ``None`` for what the runtime image has.
    ``tcp``: where it is reached over TCP, too, with TLS on both sides. ``snapshot``: the engine as
    it was, from which it goes on, by name or id, and by id once it is created; empty for none.
    ``folders``: of the host, which containers can mount. ``park_at_shutdown`` parks it when the
    manager stops, and wakes it when that starts; ``park_after_idle_s`` does when nobody has used it
    for so long.
    """

    name: str
    owner_uid: int = 0
    shape: Shape | None = None
    boot: BootPolicy = BootPolicy.AUTO
    runtime_image_id: UUID | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    auto_remove: bool = False
    time_to_live_s: float | None = None
    holder: ProcessIdentity | None = None
    host_ports: tuple[int, ...] = ()
    disk_mib: int | None = None
    tcp: TcpAddress | None = None
    snapshot: str = ""
    folders: tuple[HostFolder, ...] = ()
    park_at_shutdown: bool = False
    park_after_idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class EnginePort:
    """A port of the host that leads to a container in an engine, whose Docker id that is.

    In the VM it has the number of ``mapping.container_port``. ``held``: it is the container's until
    that is removed, and not only while it runs.
    """

    container: str
    mapping: PortMapping
    held: bool = False


@dataclass(frozen=True, slots=True)
class Engine(AsAsked):
    """A row of ``engines``: what was asked (``spec``) and what runs (``shape``, ``vm_id``).

    ``runtime_image_id``, ``runtime_snapshot_id``, ``snapshot_version`` and ``boot_attempts`` as of
    a container. ``socket`` is the path at which its Docker is reached.
    ``address`` is its own one of this host's loopback; empty where it cannot have ports.
    ``handed_over``: nothing of ours is left in that Docker.
    ``restarts``: the ids of containers that we have stopped with it and that its next boot starts;
    of those dockerd believes that their user has stopped them.
    """

    id: UUID
    spec: EngineSpec
    state: EngineState
    created_at: datetime
    shape: Shape
    socket: str
    runtime_image_id: UUID | None = None
    runtime_snapshot_id: UUID | None = None
    snapshot_version: int | None = None
    boot_attempts: tuple[BootAttempt, ...] = ()
    vm_id: str | None = None
    handed_over: bool = False
    address: str = ""
    ports: tuple[EnginePort, ...] = ()
    restarts: tuple[str, ...] = ()
    boot_method: BootMethod | None = None
    fallback_reason: FallbackReason | None = None
    fallback_details: str = ""
    stages: tuple[StageTiming, ...] = ()
    boot_s: float | None = None
    error: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def kind(self) -> VmKind:
        return VmKind.ENGINE

    @property
    def live_vm_id(self) -> str | None:
        """The VM in which it runs, or stands still."""
        return self.vm_id if self.state in IN_VM else None

    @property
    def goes_on(self) -> bool:
        """Whether containers may come up with it: of its disk, or of a snapshot."""
        return bool(self.spec.snapshot) or self.fallback_reason is FallbackReason.KEEPS_DISK

    @property
    def host_name(self) -> str:
        return hostname_for(self.spec.name)

    @property
    def docker_host(self) -> str:
        """What clients take as ``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    @property
    def expires_at(self) -> datetime | None:
        """The time at which the engine is removed, whatever it does then."""
        if self.spec.time_to_live_s is None:
            return None
        return self.created_at + timedelta(seconds=self.spec.time_to_live_s)
