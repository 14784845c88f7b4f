"""The request that creates a container, and its published ports."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StrictBool, StrictInt

from warmboot.api.schemas.option_requests import FolderIn, OptionsIn
from warmboot.api.schemas.requests import (
    ARCHIVE_PATTERN,
    KEYS,
    MAX_STOP_TIMEOUT_S,
    MAX_UID,
    OR_WHOLE,
    WORKING_DIR_PATTERN,
    Environment,
    HostName,
    IdleTime,
    ImageReference,
    LabelName,
    LabelValue,
    Name,
    ShapeIn,
    Signal,
    Strict,
    UserName,
    Words,
)
from warmboot.model.container import ContainerSpec, PortMapping
from warmboot.model.conventions.names import invent_name
from warmboot.model.conventions.program_start import assignments, check_size
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.boot import BootPolicy


def _checked_ip(address: str) -> str:
    try:
        return str(ipaddress.IPv4Address(address))
    except ValueError:
        raise ValueError(
            f"{address!r} is not an IPv4 address; ports are published on IPv4 addresses only"
        ) from None


class PortIn(Strict):
    """A published port; ``host_port`` 0 takes any free one, ``host_port_last`` one up to that."""

    container_port: Annotated[StrictInt, Field(ge=1, le=65_535), OR_WHOLE]
    host_port: Annotated[StrictInt, Field(ge=0, le=65_535), OR_WHOLE] = 0
    host_ip: Annotated[
        str,
        Field(max_length=45, json_schema_extra={"format": "ipv4"}),
        AfterValidator(_checked_ip),
    ] = "127.0.0.1"
    protocol: Literal["tcp", "udp"] = "tcp"
    host_port_last: Annotated[StrictInt, Field(ge=0, le=65_535), OR_WHOLE] = 0


def _no_port_twice(ports: list[PortIn]) -> list[PortIn]:
    wanted = [port.to(PortMapping) for port in ports]
    for number, port in enumerate(wanted):
        for earlier in wanted[:number]:
            if port.overlaps(earlier):
                raise ValueError(
                    f"the host port {port.host_end} is published twice, for the container's ports "
                    f"{earlier.container_port} and {port.container_port}"
                )
    return ports


class RenameIn(Strict):
    """Another name for a container."""

    name: Name


class ContainerIn(Strict):
    """A container to create. Only ``image`` is needed. ``start: false`` only creates it."""

    image: ImageReference
    name: Name | None = None
    command: Words | None = None
    entrypoint: Words | None = None
    environment: Environment
    ports: Annotated[
        list[PortIn],
        Field(max_length=256, default_factory=list),
        AfterValidator(_no_port_twice),
    ]
    shape: ShapeIn | None = None
    boot: BootPolicy = BootPolicy.AUTO
    runtime_image_id: UUID | None = None
    archive: Annotated[str, Field(pattern=ARCHIVE_PATTERN)] | None = None
    tty: StrictBool = False
    stdin_open: StrictBool = False
    auto_remove: StrictBool = False
    attach: Annotated[
        StrictBool,
        Field(
            description="start it when a client has attached, so that this one gets all of its "
            "output; without one within half a minute it is started all the same"
        ),
    ] = False
    start: StrictBool = True
    labels: Annotated[
        dict[LabelName, LabelValue],
        Field(max_length=256, default_factory=dict, json_schema_extra=KEYS),
    ]
    user: UserName = ""
    working_dir: Annotated[str, Field(max_length=4095, pattern=WORKING_DIR_PATTERN)] = ""
    hostname: HostName = ""
    stop_signal: Signal | None = None
    stop_timeout_s: Annotated[StrictInt, Field(ge=0, le=MAX_STOP_TIMEOUT_S), OR_WHOLE] | None = None
    publish_all: StrictBool = False
    park_at_shutdown: Annotated[
        StrictBool, Field(description="park it when the manager stops, wake it when that starts")
    ] = False
    park_after_idle_s: IdleTime = None
    options: Annotated[OptionsIn, Field(default_factory=OptionsIn)]
    folders: Annotated[
        list[FolderIn],
        Field(
            max_length=16,
            default_factory=list,
            description="folders of this host in which is what it mounts",
        ),
    ]
    owner_uid: Annotated[
        StrictInt | None,
        Field(
            ge=0,
            le=MAX_UID,
            description="the user of this host with whose rights its folders are read and written; "
            "left out, the manager's own",
        ),
        OR_WHOLE,
    ] = None

    def to_model(self) -> ContainerSpec:
        check_size([*(self.entrypoint or ()), *(self.command or ())], assignments(self.environment))
        spec = self.to(
            ContainerSpec,
            name=self.name or invent_name(),
            stop_signal=self.stop_signal or "",
            owner_uid=os.geteuid() if self.owner_uid is None else self.owner_uid,
        )
        for port in spec.ports:
            if port.host_port_last and not 0 < port.host_port <= port.host_port_last:
                raise InvalidRequest(
                    f"the range of host ports {port.host_port}-{port.host_port_last} has none",
                    resolution="begin it with 1 or more, and end it with no less",
                )
        if self.attach and not self.start:
            raise InvalidRequest(
                "conflicting options: attach is of one that is started",
                resolution="leave it out; who starts it attaches: .../attach?start=true",
            )
        spec.options.check(auto_remove=spec.auto_remove, archive=spec.archive is not None)
        return spec
