"""Request and response models for engines."""

from __future__ import annotations

import os
from datetime import datetime
from ipaddress import AddressValueError, IPv4Address
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AliasPath, Field, StrictBool, StrictFloat, StrictInt

from warmboot.api.schemas.container_responses import BootAttemptOut, StageOut
from warmboot.api.schemas.option_requests import FolderIn
from warmboot.api.schemas.requests import (
    KEYS,
    LABEL_PATTERN,
    MAX_UID,
    NO_NUL_PATTERN,
    OR_WHOLE,
    IdleTime,
    LabelName,
    LabelValue,
    Name,
    ShapeIn,
    Strict,
)
from warmboot.api.schemas.responses import FolderOut, Out, ShapeOut, asked
from warmboot.model.conventions.names import invent_name
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.shapes import MAX_DISK_MIB
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.model.tenants.engine import EngineSpec, EngineState

MAX_TIME_TO_LIVE_S = 366 * 86_400

LoginText = Annotated[str, Field(max_length=8192, pattern=NO_NUL_PATTERN)]


class ProcessIn(Strict):
    """A process of the manager's machine."""

    pid: Annotated[StrictInt, Field(ge=1, le=2**22, description="its process id"), OR_WHOLE]
    start_time_ticks: Annotated[
        StrictInt,
        Field(ge=0, le=10**15, description="when it began: field 22 of /proc/PID/stat"),
        OR_WHOLE,
    ]


def _checked_ip(address: str) -> str:
    try:
        return str(IPv4Address(address))
    except AddressValueError:
        raise ValueError(f"{address!r} is not an IPv4 address") from None


class TcpIn(Strict):
    """Where an engine is reached over TCP, with TLS on both sides."""

    address: Annotated[
        str,
        Field(
            max_length=45,
            json_schema_extra={"format": "ipv4"},
            description="an IPv4 address of this host, which its certificate names",
        ),
        AfterValidator(_checked_ip),
    ] = "127.0.0.1"
    port: Annotated[
        StrictInt, Field(ge=1, le=65_535, description="a TCP port that is free there"), OR_WHOLE
    ]


class EngineIn(Strict):
    """A Docker engine of one's own. Nothing is required."""

    name: Name = Field(default_factory=invent_name)
    owner_uid: Annotated[
        StrictInt | None,
        Field(
            ge=0,
            le=MAX_UID,
            description="the user of this host who gets its socket, and so root in its VM; left "
            "out, the manager's own",
        ),
        OR_WHOLE,
    ] = None
    shape: ShapeIn | None = None
    boot: BootPolicy = BootPolicy.AUTO
    runtime_image_id: UUID | None = None
    labels: Annotated[
        dict[LabelName, LabelValue],
        Field(max_length=64, default_factory=dict, json_schema_extra=KEYS),
    ]
    auto_remove: StrictBool = False
    time_to_live_s: Annotated[
        StrictFloat | None,
        Field(
            gt=0,
            le=MAX_TIME_TO_LIVE_S,
            allow_inf_nan=False,
            description="seconds after which it is removed, whatever it does; null for never",
        ),
    ] = None

    host_ports: Annotated[
        list[Annotated[StrictInt, Field(ge=1, le=65_535), OR_WHOLE]],
        Field(
            max_length=64,
            default_factory=list,
            description="TCP ports of this host's 127.0.0.1 that the engine and its containers may "
            "reach, at 198.18.0.1; all others are closed to them",
        ),
    ]
    folders: Annotated[
        list[FolderIn],
        Field(
            max_length=16,
            default_factory=list,
            description="folders of this host that its containers can mount, with the rights of "
            "the engine's owner; live, in both directions",
        ),
    ]
    disk_mib: Annotated[
        StrictInt | None,
        Field(
            ge=1,
            le=MAX_DISK_MIB,
            description="the size of its disk in MiB, not less than the runtime image's, which it "
            "is if left out",
        ),
        OR_WHOLE,
    ] = None
    tcp: Annotated[
        TcpIn | None,
        Field(
            description="where it is reached over TCP, too, by clients that have its certificate"
        ),
    ] = None
    snapshot: Annotated[
        Name | None,
        Field(
            description="the name or id of a snapshot of an engine, from which it goes on with the "
            "containers that ran there; with boot cold, with the disk alone"
        ),
    ] = None
    holder: Annotated[
        ProcessIn | None,
        Field(description="a process at whose end, however it ends, the engine is removed"),
    ] = None

    park_at_shutdown: Annotated[
        StrictBool, Field(description="park it when the manager stops, wake it when that starts")
    ] = False
    park_after_idle_s: IdleTime = None

    def to_model(self) -> EngineSpec:
        owner_uid = os.geteuid() if self.owner_uid is None else self.owner_uid
        return self.to(EngineSpec, owner_uid=owner_uid, snapshot=self.snapshot or "")


class EngineSnapshotIn(Strict):
    """A snapshot of an engine as it is now."""

    name: Annotated[Name, Field(description="by which engines are created from it")]


class RegistryLoginIn(Strict):
    """As docker's own config.json has it; a token, or a user with a password."""

    registry: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            pattern=LABEL_PATTERN,
            description="HOST[:PORT], docker.io for Docker Hub",
        ),
    ]
    username: Annotated[LoginText, Field(description="the user's name at the registry")] = ""
    password: Annotated[LoginText, Field(description="the user's, or an access token")] = ""
    identity_token: Annotated[
        LoginText, Field(description="with which Docker gets access tokens from the registry")
    ] = ""
    registry_token: Annotated[
        LoginText, Field(description="which is sent to the registry as it is")
    ] = ""

    def to_model(self) -> RegistryLogin:
        return self.to(RegistryLogin)


class RegistryLoginsIn(Strict):
    logins: Annotated[
        list[RegistryLoginIn], Field(max_length=64, description="all that it has from now on")
    ]


class EnginePortOut(Out):
    """A port of the host that leads to a container in the engine."""

    container: str = Field(description="the container's id, which its Docker has given to it")
    host_ip: str = Field(
        validation_alias=AliasPath("mapping", "host_ip"),
        description="the address of the host; empty before it is published for the first time",
    )
    host_port: int = Field(validation_alias=AliasPath("mapping", "host_port"))
    protocol: str = Field(validation_alias=AliasPath("mapping", "protocol"))
    held: bool = Field(description="also while the container does not run, until it is removed")


class TcpOut(Out):
    """Where an engine is reached over TCP."""

    address: str = Field(description="an IPv4 address of this host")
    port: int = Field(description="a TCP port of that address")


class CertificatesOut(Out):
    """What a client needs to reach an engine over TCP, in PEM; ``key`` is a secret."""

    ca: str = Field(
        validation_alias=AliasPath("authority"), description="who has signed the engine's"
    )
    cert: str = Field(validation_alias=AliasPath("certificate"), description="the client's own")
    key: str = Field(description="the private key of cert")
    expires_at: datetime = Field(description="when they are not valid any more")


class EngineOut(Out):
    """``shape`` is what runs; ``requested_shape`` what was asked for."""

    id: UUID
    name: str
    state: EngineState
    docker_host: str = Field(description="what clients take as DOCKER_HOST")
    socket: str = Field(description="the Unix socket at which its Docker is reached")
    owner_uid: int = asked("owner_uid")
    address: str = Field(
        description="an address of this host's loopback that is the engine's own: the ports that "
        "its containers publish answer there; empty if it cannot have ports"
    )
    ports: list[EnginePortOut] = Field(description="ports that its containers publish")
    boot_method: BootMethod | None
    fallback_reason: FallbackReason | None
    fallback_message: str
    fallback_details: str
    boot_s: float | None
    stages: list[StageOut]
    shape: ShapeOut
    requested_shape: ShapeOut | None
    boot: BootPolicy
    labels: dict[str, str] = asked("labels")
    auto_remove: bool = asked("auto_remove")
    host_ports: list[int] = asked("host_ports")
    folders: list[FolderOut] = Field(
        validation_alias=AliasPath("spec", "folders"),
        description="folders of this host that its containers can mount",
    )
    time_to_live_s: float | None = asked("time_to_live_s")
    disk_mib: int | None = Field(
        validation_alias=AliasPath("spec", "disk_mib"),
        description="the size of its disk that was asked for; null for the runtime image's",
    )
    tcp: TcpOut | None = Field(
        validation_alias=AliasPath("spec", "tcp"),
        description="where it is reached over TCP, too; null for nowhere",
    )
    expires_at: datetime | None = Field(description="when it is removed; null for never")
    park_at_shutdown: bool = asked("park_at_shutdown")
    park_after_idle_s: float | None = asked("park_after_idle_s")
    runtime_image_id: UUID | None
    runtime_snapshot_id: UUID | None
    snapshot_version: int | None
    boot_attempts: list[BootAttemptOut] = Field(
        description="snapshots that were tried before the boot that counts, and why they failed"
    )
    vm_id: str | None
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EngineDiskOut(Out):
    """What is used of an engine's disk."""

    stored_bytes: int = Field(description="what it takes on the host")
    size_bytes: int | None = Field(
        description="of the file system, as the guest sees it; null while it cannot be asked"
    )
    used_bytes: int | None = Field(
        description="of the file system, as the guest sees it; null while it cannot be asked"
    )
