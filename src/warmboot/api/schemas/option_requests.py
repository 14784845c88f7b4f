"""Requests' ``options`` of a container: Docker's, with a limit on every field."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt

from warmboot.api.schemas.requests import (
    ABSOLUTE_PATTERN,
    KEYS,
    MAX_WORDS,
    NO_NUL_PATTERN,
    OR_WHOLE,
    Strict,
    Text,
)
from warmboot.model.shapes import MAX_VCPUS
from warmboot.model.tenants.container_options import (
    MountType,
    PullPolicy,
    RestartMode,
)

CAPABILITY_PATTERN = r"^[a-zA-Z_]{1,40}$"
SYSCTL_PATTERN = r"^[a-zA-Z0-9_][a-zA-Z0-9_.\/-]{0,255}$"
SOURCE_PATTERN = r"^([a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}|\/[^\x00]*)?$"
ULIMIT_PATTERN = r"^[a-z]{1,16}$"
HOST_PATTERN = r"^[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,253}):[0-9a-zA-Z.:-]{1,64}$"
DOMAIN_PATTERN = r"^(\.|[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,253})$"
PLATFORM_PATTERN = r"^([a-zA-Z0-9_-]{1,32}(\/[a-zA-Z0-9_-]{1,32}){0,2})?$"
MAX_DURATION_S = 365 * 24 * 3600
_MAX_BYTES = 1 << 50
_MAX_LIMIT = (1 << 53) - 1  # what JSON's numbers hold exactly


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IP address") from None


Capability = Annotated[str, Field(pattern=CAPABILITY_PATTERN)]
Path = Annotated[str, Field(max_length=4095, pattern=ABSOLUTE_PATTERN)]
Seconds = Annotated[StrictFloat, Field(ge=0, le=MAX_DURATION_S, allow_inf_nan=False)]
Bytes = Annotated[StrictInt, Field(ge=1, le=_MAX_BYTES), OR_WHOLE]
Limit = Annotated[StrictInt, Field(ge=-1, le=_MAX_LIMIT), OR_WHOLE]
Address = Annotated[
    str,
    Field(max_length=45, json_schema_extra={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
    AfterValidator(_address),
]


Count = Annotated[StrictInt, Field(ge=0, le=1_000_000), OR_WHOLE]
# A key that fits no pattern is refused, and one that is too long.
_PATHS = {"additionalProperties": False, "propertyNames": {"maxLength": 4095}}
Value = Annotated[str, Field(max_length=1024, pattern=NO_NUL_PATTERN)]


class UlimitIn(Strict):
    """A limit of its processes; -1 is none."""

    name: Annotated[str, Field(pattern=ULIMIT_PATTERN)]
    soft: Limit
    hard: Limit


class FolderIn(Strict):
    """A folder of the manager's machine that is given to an engine or a container."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4095,
            pattern=ABSOLUTE_PATTERN,
            description="an absolute path on the manager's machine",
        ),
    ]
    read_only: Annotated[
        StrictBool, Field(description="whether nothing can be changed in it from the engine")
    ] = False


class VolumeMountIn(Strict):
    """A volume, a tmpfs, or a path of the host that is in a folder which it was given. Volumes are
    in its VM, and go with it."""

    type: MountType = MountType.VOLUME
    target: Path
    source: Annotated[str, Field(max_length=4095, pattern=SOURCE_PATTERN)] = ""
    read_only: StrictBool = False
    size_bytes: Bytes | None = None
    mode: Annotated[StrictInt, Field(ge=0, le=0o7777), OR_WHOLE] | None = None


class RestartIn(Strict):
    """When it is started again after its end, by Docker in its VM, while that lives."""

    mode: RestartMode = RestartMode.NO
    maximum_retries: Count = 0


class HealthIn(Strict):
    """What tells whether it is well; what is left out is the image's own, or Docker's."""

    test: Annotated[list[Text], Field(max_length=MAX_WORDS, default_factory=list)]
    interval_s: Seconds | None = None
    timeout_s: Seconds | None = None
    start_period_s: Seconds | None = None
    start_interval_s: Seconds | None = None
    retries: Count | None = None


class OptionsIn(Strict):
    """Docker's own options. What is left out is Docker's default."""

    init: StrictBool = False
    privileged: StrictBool = False
    cap_add: Annotated[list[Capability], Field(max_length=64, default_factory=list)]
    cap_drop: Annotated[list[Capability], Field(max_length=64, default_factory=list)]
    read_only: StrictBool = False
    tmpfs: Annotated[
        dict[Path, Value],
        Field(max_length=64, default_factory=dict, json_schema_extra=_PATHS),
    ]
    mounts: Annotated[list[VolumeMountIn], Field(max_length=64, default_factory=list)]
    ulimits: Annotated[list[UlimitIn], Field(max_length=32, default_factory=list)]
    shm_size_bytes: Bytes | None = None
    pids_limit: Limit | None = None
    cpus: Annotated[StrictFloat, Field(ge=0.01, le=MAX_VCPUS, allow_inf_nan=False)] | None = None
    sysctls: Annotated[
        dict[Annotated[str, Field(pattern=SYSCTL_PATTERN)], Value],
        Field(max_length=64, default_factory=dict, json_schema_extra=KEYS),
    ]
    restart: RestartIn = RestartIn()
    health: HealthIn | None = None
    add_hosts: Annotated[
        list[Annotated[str, Field(pattern=HOST_PATTERN)]],
        Field(max_length=256, default_factory=list),
    ]
    dns: Annotated[list[Address], Field(max_length=16, default_factory=list)]
    dns_search: Annotated[
        list[Annotated[str, Field(pattern=DOMAIN_PATTERN)]],
        Field(max_length=32, default_factory=list),
    ]
    dns_options: Annotated[list[Value], Field(max_length=32, default_factory=list)]
    pull: PullPolicy = PullPolicy.MISSING
    platform: Annotated[str, Field(pattern=PLATFORM_PATTERN)] = ""
