"""A user's container, alone in its own VM.

    (created ──▶) creating ──▶ running ⇄ exited    running ⇄ paused, which ends as running does
                     │           │        │
                     │           ▼        ▼
                     └──────▶ failed ──▶ deleting ──▶ (gone)

    running ──▶ parking ──▶ parked ──▶ waking ──▶ running

``created`` is one that nobody has started yet: it has a name and what was asked for, and nothing of
the host. ``paused``: its VM stands still in memory, and nothing can be asked of what is in it.
``parked``: its memory is on the disk, and there is no VM; it keeps its ports.
An ``exited`` one is put away after a while: its VM is parked, and ``vm_id`` is ``None``.
``failed`` means that there is no VM to speak of: it never came up, or it died. A failed or exited
container can be started again (a failed one gets a new VM, cold, on its own disk).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from warmboot.model.conventions.names import hostname_for
from warmboot.model.errors import VmUnresponsive
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import (
    AsAsked,
    BootAttempt,
    BootMethod,
    BootPolicy,
    FallbackReason,
    StageTiming,
)
from warmboot.model.tenants.container_options import ContainerOptions, Health
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.transitions import Transitions
from warmboot.model.vm import VmKind


class ContainerState(StrEnum):
    CREATED = "created"
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    PARKING = "parking"
    PARKED = "parked"
    WAKING = "waking"
    EXITED = "exited"
    FAILED = "failed"
    DELETING = "deleting"


CONTAINER_TRANSITIONS = Transitions(
    "container",
    {
        ContainerState.CREATED: frozenset({ContainerState.CREATING, ContainerState.DELETING}),
        ContainerState.CREATING: frozenset(
            {
                ContainerState.RUNNING,
                ContainerState.EXITED,
                ContainerState.FAILED,
                ContainerState.DELETING,
            }
        ),
        ContainerState.RUNNING: frozenset(
            {
                ContainerState.PAUSED,
                ContainerState.PARKING,
                ContainerState.EXITED,
                ContainerState.FAILED,
                ContainerState.DELETING,
            }
        ),
        ContainerState.PAUSED: frozenset(
            {ContainerState.RUNNING, ContainerState.FAILED, ContainerState.DELETING}
        ),
        ContainerState.PARKING: frozenset(
            {
                ContainerState.RUNNING,
                ContainerState.PARKED,
                ContainerState.FAILED,
                ContainerState.DELETING,
            }
        ),
        ContainerState.PARKED: frozenset({ContainerState.WAKING, ContainerState.DELETING}),
        ContainerState.WAKING: frozenset(
            {ContainerState.RUNNING, ContainerState.PARKED, ContainerState.DELETING}
        ),
        ContainerState.EXITED: frozenset(
            {ContainerState.RUNNING, ContainerState.FAILED, ContainerState.DELETING}
        ),
        ContainerState.FAILED: frozenset({ContainerState.CREATING, ContainerState.DELETING}),
        ContainerState.DELETING: frozenset(),
    },
)


BEGUN = frozenset(ContainerState) - {
    *(ContainerState.CREATED, ContainerState.CREATING, ContainerState.EXITED),
    *(ContainerState.FAILED, ContainerState.DELETING),
}
"""Those whose program runs, stands still, or is kept as it ran."""

LIVING = BEGUN | {ContainerState.CREATING}
"""Those that have not ended: they are told of without ``all``, and have their ports."""

DEFAULT_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class PortMapping:
    """``host_ip:host_port`` on the host leads to ``container_port``. ``host_port`` 0: any free.

    With ``host_port_last`` it is asked for as any free one from ``host_port`` to that; what is
    published has none.
    """

    container_port: int
    host_port: int = 0
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"
    host_port_last: int = 0

    @property
    def is_any(self) -> bool:
        """Published on all of the host's addresses."""
        return self.host_ip == "0.0.0.0"

    @property
    def host_end(self) -> str:
        """The host's end of it, in words."""
        return f"{self.host_ip}:{self.host_port}/{self.protocol}"

    def overlaps(self, other: PortMapping) -> bool:
        """Whether only one of the two can be published at a time."""
        same = (self.host_port, self.protocol) == (other.host_port, other.protocol)
        addresses = self.host_ip == other.host_ip or self.is_any or other.is_any
        ranges = self.host_port_last or other.host_port_last  # one of them is found that is free
        return bool(self.host_port) and same and addresses and not ranges


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What the user asked for.

    ``image`` is a reference (``redis:7``, ``localhost:5000/app``) or, with ``archive``, the name
    that the archive's image gets. ``archive`` is the id of an uploaded archive. ``shape`` is
    ``None`` for the default one. ``command`` and ``entrypoint`` as in Docker; a variable that is
    ``None`` in ``environment`` is taken away from the image's. What is empty or
    ``None`` of ``user``, ``working_dir`` and ``stop_signal`` is the image's own, of ``hostname``
    the name's, of ``stop_timeout_s`` the default. With ``publish_all`` the ports that the image
    exposes are published, too, at any free ones. ``snapshot`` is the id of the moment of another
    container, from which it goes on; empty for none. ``folders``: of the host, in which is what it
    mounts, with the rights of the host's user ``owner_uid``. ``park_at_shutdown`` parks it when the
    manager stops, and wakes it when that starts; ``park_after_idle_s`` does when nobody has used it
    for so long.
    """

    name: str
    image: str
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    ports: tuple[PortMapping, ...] = ()
    shape: Shape | None = None
    boot: BootPolicy = BootPolicy.AUTO
    runtime_image_id: UUID | None = None
    archive: str | None = None
    tty: bool = False
    stdin_open: bool = False
    auto_remove: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    stop_signal: str = ""
    stop_timeout_s: int | None = None
    options: ContainerOptions = field(default_factory=ContainerOptions)
    publish_all: bool = False
    snapshot: str = ""
    owner_uid: int = 0
    folders: tuple[HostFolder, ...] = ()
    park_at_shutdown: bool = False
    park_after_idle_s: float | None = None

    @property
    def host_name(self) -> str:
        """The host name of its VM, and so the container's, too."""
        return self.hostname or hostname_for(self.name)


@dataclass(frozen=True, slots=True)
class Container(AsAsked):
    """A row of ``containers``: what was asked (``spec``) and what runs (``shape``, ``vm_id``).

    ``snapshot_version`` is the version of the snapshot that it was booted from;
    ``boot_attempts`` are those that were tried before, in vain. ``health`` is ``None`` before it
    has run.
    """

    id: UUID
    spec: ContainerSpec
    state: ContainerState
    created_at: datetime
    shape: Shape
    runtime_image_id: UUID | None = None
    runtime_snapshot_id: UUID | None = None
    snapshot_version: int | None = None
    boot_attempts: tuple[BootAttempt, ...] = ()
    vm_id: str | None = None
    docker_id: str | None = None
    boot_method: BootMethod | None = None
    fallback_reason: FallbackReason | None = None
    fallback_details: str = ""
    stages: tuple[StageTiming, ...] = ()
    boot_s: float | None = None
    ports: tuple[PortMapping, ...] = ()
    exit_code: int | None = None
    oom_killed: bool = False
    error: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    health: Health | None = None

    @property
    def kind(self) -> VmKind:
        return VmKind.CONTAINER

    @property
    def host_name(self) -> str:
        return self.spec.host_name

    @property
    def image_reference(self) -> str | None:
        own = self.spec.archive or self.spec.options.platform
        return None if own else self.spec.image

    @property
    def base_image_id(self) -> UUID | None:
        """The runtime image that was asked for; else the one that was taken."""
        return self.spec.runtime_image_id or self.runtime_image_id

    @property
    def is_put_away(self) -> bool:
        """It has exited, and its VM was parked since; what asks for what is in that wakes it."""
        exited = self.state is ContainerState.EXITED
        return exited and self.vm_id is None and self.docker_id is not None

    @property
    def answering(self) -> bool:
        """False while its VM is there and does not answer; ``error`` says so."""
        return (self.error or {}).get("code") != VmUnresponsive.code
