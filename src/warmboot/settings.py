"""The settings: environment variables, read once at the start.

The names of environment variables are the specification's where it has them; the others follow its
``MANAGER_`` form. Parts get small frozen configs made from this (see ``bootstrap``), never this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from warmboot.model.conventions.manager_socket import DEFAULT_PORT, default_socket, run_folder_of
from warmboot.model.conventions.tokens import is_token
from warmboot.model.errors import InvalidRequest
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import MAX_FORKS
from warmboot.model.tenants.registry_mirror import RegistryMirror

LOG_LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")
_PREFIX_PATTERN = r"^[a-z][a-z0-9]{0,7}$"
_SHOWN = 80
"""Characters of a value; nobody needs more to find it."""


class Settings(BaseSettings):
    """See ``docs/reference/settings.md``."""

    model_config = SettingsConfigDict(env_prefix="MANAGER_", extra="ignore", frozen=True)

    storage_root: Path = Path("/srv/fc")
    database_url: str = ""
    host: str = "127.0.0.1"
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    socket: Path | None = None
    socket_group: str = "warmboot"
    tokens: Annotated[frozenset[str], NoDecode] = frozenset()
    max_connections: int = Field(1024, ge=16, le=16384)
    log_format: Literal["console", "json"] = "console"
    log_level: str = "INFO"

    hypervisor: Literal["auto", "qemu", "firecracker", "simulated"] = "auto"
    qemu_binary: str = "qemu-system-x86_64"
    qemu_machine: Literal["q35", "microvm"] = "q35"
    qemu_accelerator: Literal["auto", "tcg"] = "auto"
    firecracker_binary: str = "firecracker"
    simulation: Path | None = None

    default_vcpus: int = Field(2, ge=1, le=32)
    default_memory_mib: int = Field(768, ge=256, le=65536)
    max_runtime_snapshots: int = Field(10, ge=1)
    max_image_snapshots: int = Field(16, ge=0, le=1000)
    image_budget_mib: int = Field(16_384, ge=0)
    max_forks: int = Field(64, ge=1, le=MAX_FORKS)
    snapshot_wait_s: float = Field(60.0, ge=0)
    pool_min_vms: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    pool_max_vms: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    pool_window_s: float = Field(600.0, gt=0, allow_inf_nan=False)
    pool_memory_percent: int = Field(25, ge=1, le=90)
    standby_vms: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    warm_boot_timeout_s: float = Field(30.0, gt=0)
    cold_boot_timeout_s: float = Field(300.0, gt=0)
    park_exited_after_s: float = Field(60.0, ge=0, allow_inf_nan=False)
    unresponsive_after_s: float = Field(120.0, gt=0, allow_inf_nan=False)
    pull_silence_s: float = Field(60.0, gt=0, allow_inf_nan=False)
    registry_mirror: str = ""
    disk_floor_mib: int = Field(1024, ge=0)
    engine_users: str = ""
    shared_folders: str = ""
    engine_disk_mib: int = Field(262_144, ge=1024)
    vm_overhead_mib: int = Field(640, ge=128, le=65536)
    console_log_mib: int = Field(16, ge=1, le=4096)

    auto_snapshot: bool = True
    auto_rebuild: bool = True
    rebuild_attempts: int = Field(5, ge=1)
    rebuild_pause_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    shape_demand_boots: int = Field(3, ge=0)
    shape_demand_window_s: float = Field(3600.0, gt=0, allow_inf_nan=False)
    image_demand_starts: int = Field(10, ge=0)
    image_demand_window_s: float = Field(3600.0, gt=0, allow_inf_nan=False)

    gc_every_h: float = Field(24.0, ge=0, allow_inf_nan=False)
    snapshot_unused_days: float = Field(30.0, ge=0, le=36_500)
    cache_budget_mib: int = Field(4096, ge=0)
    compress_after_h: float = Field(168.0, ge=0, allow_inf_nan=False)
    unpack_after_boots: int = Field(3, ge=0)
    unpack_within_h: float = Field(1.0, gt=0, allow_inf_nan=False)
    integrity_every_h: float = Field(24.0, ge=0, allow_inf_nan=False)

    docker_host: str = "unix:///var/run/docker.sock"
    criu_wrapper: Path = Path("/usr/local/sbin/criu")
    checkpoint_root: Path | None = None
    checkpoint_budget_mib: int = Field(0, ge=0)
    worker_url: str = ""
    worker_pause_timeout_s: float = Field(120.0, gt=0, allow_inf_nan=False)

    network_prefix: str = Field("wb", pattern=_PREFIX_PATTERN)
    network_subnet: str = "198.19.0.0/18"
    network_pool_size: int = Field(4, ge=0, le=64)
    publish_address: str = "127.0.0.1"
    resolv_conf: Path = Path("/etc/resolv.conf")

    container_runtime_kernel: Path | None = Field(None, alias="CONTAINER_RUNTIME_KERNEL")
    container_runtime_rootfs: Path | None = Field(None, alias="CONTAINER_RUNTIME_ROOTFS")
    container_runtime_initrd: Path | None = Field(None, alias="CONTAINER_RUNTIME_INITRD")

    @field_validator("tokens", mode="before")
    @classmethod
    def _split_tokens(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        tokens = [token.strip() for token in value.split(",")]
        for number, token in enumerate(tokens, 1):
            if token and not is_token(token):
                # Not the token itself: what is said goes to logs.
                raise InvalidRequest(
                    f"token {number} in MANAGER_TOKENS cannot be sent by a client; tokens are "
                    "separated by commas, and have printable ASCII characters and no blanks",
                    resolution=_CORRECT_IT,
                )
        return frozenset(token for token in tokens if token)

    @field_validator("socket", "checkpoint_root", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("docker_host")
    @classmethod
    def _unix_socket(cls, value: str) -> str:
        if not value.startswith("unix:///"):
            raise ValueError(
                "a Unix socket of this machine, as unix:///path/to/docker.sock: checkpoints lie "
                "in that engine's own folders"
            )
        return value

    @field_validator("registry_mirror")
    @classmethod
    def _mirror(cls, value: str) -> str:
        if value:
            RegistryMirror(value)
        return value

    @field_validator("publish_address")
    @classmethod
    def _ipv4(cls, value: str) -> str:
        try:
            return str(IPv4Address(value))
        except AddressValueError:
            raise ValueError("an IPv4 address") from None

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in LOG_LEVELS:
            raise ValueError(_either(LOG_LEVELS))
        return value

    @field_validator("storage_root")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.absolute()

    @model_validator(mode="after")
    def _whole_image(self) -> Self:
        given = (self.container_runtime_kernel, self.container_runtime_rootfs)
        if None in given and (self.container_runtime_initrd, *given) != (None, None, None):
            raise InvalidRequest(
                "CONTAINER_RUNTIME_KERNEL and CONTAINER_RUNTIME_ROOTFS go together "
                "(CONTAINER_RUNTIME_INITRD with both)",
                resolution="set the missing environment variable, or unset the other",
            )
        return self

    @model_validator(mode="after")
    def _pool(self) -> Self:
        given = (self.pool_min_vms, self.pool_max_vms)
        least, most = given
        if self.standby_vms != "auto" and given != ("auto", "auto"):
            raise InvalidRequest(
                "MANAGER_STANDBY_VMS is the earlier name of MANAGER_POOL_MIN_VMS and "
                "MANAGER_POOL_MAX_VMS, and cannot be set beside them",
                resolution="unset MANAGER_STANDBY_VMS",
            )
        if least != "auto" and most != "auto" and least > most:
            raise InvalidRequest(
                f"MANAGER_POOL_MIN_VMS is {least}, and MANAGER_POOL_MAX_VMS is {most}",
                details="the warm pool cannot be kept at more VMs than it may have",
                resolution=f"set MANAGER_POOL_MAX_VMS to {least} or more, or the other to {most} "
                "or less",
            )
        return self

    @property
    def pool_bounds(self) -> tuple[int | Literal["auto"], int | Literal["auto"]]:
        """The least and the most VMs of the warm pool, under whichever name they were given."""
        if self.standby_vms != "auto":
            return self.standby_vms, self.standby_vms
        return self.pool_min_vms, self.pool_max_vms

    @property
    def default_shape(self) -> Shape:
        return Shape(self.default_vcpus, self.default_memory_mib)

    def socket_at(self, port: int) -> Path:
        """The socket of the manager that has the TCP port ``port``."""
        if self.socket is not None:
            return self.socket.absolute()
        return default_socket(self.host, port, self.storage_root)

    def run_folder(self, port: int) -> Path:
        """The folder of the same manager's other sockets: its engines', and the front's."""
        return run_folder_of(self.socket_at(port))

    @property
    def checkpoint_folders(self) -> Path:
        """The folder of the workers' checkpoints that are not the engine's."""
        return (self.checkpoint_root or self.storage_root / "checkpoints").absolute()

    @property
    def url_for_workers(self) -> str:
        """The URL at which workers, which have the host's network, find this manager."""
        if self.worker_url:
            return self.worker_url
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.port}"

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.storage_root / 'warmboot.db'}"


def read_settings(**given: Any) -> Settings:
    """Those of the environment, and ``given`` ones before them. ``InvalidRequest`` in our words."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        field = Settings.model_fields[name]
        allowed = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":
            allowed = _allowed(field.annotation, field.metadata)
        shown = repr(first["input"])
        shown = f"{shown[:_SHOWN]}…" if len(shown) > _SHOWN else shown
        raise InvalidRequest(
            f"{field.alias or f'MANAGER_{name}'.upper()} is {shown}; it must be {allowed}",
            resolution=_CORRECT_IT,
        ) from error


_CORRECT_IT = "correct the environment variable"


def _allowed(kind: Any, rules: Iterable[Any]) -> str:
    """What a field takes, from its type and its rules."""
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
        rules = [one for rule in rules for one in getattr(rule, "metadata", [rule])]
    if get_origin(kind) is Literal:
        return _either([repr(one) for one in get_args(kind)])
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        bounds = {
            bound: getattr(rule, bound)
            for rule in rules
            for bound in ("ge", "gt", "le")
            if hasattr(rule, bound)
        }
        return f"{number}{_within(**bounds)}"
    if any(getattr(rule, "pattern", None) == _PREFIX_PATTERN for rule in rules):
        return "a lower-case letter, then at most 7 such letters or digits"
    return _either([_allowed(one, ()) for one in get_args(kind)] or ["a text"])


def _within(ge: float | None = None, gt: float | None = None, le: float | None = None) -> str:
    if ge is not None and le is not None:
        return f" from {ge} to {le}"
    return f" of more than {gt}" if ge is None else f" of {ge} or more"


def _either(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def earlier_names(environment: Iterable[str]) -> Iterator[str]:
    """What is a setting still, and has another name now: a sentence each."""
    if "MANAGER_STANDBY_VMS" in environment:
        yield (
            "MANAGER_STANDBY_VMS is an earlier name, and keeps the warm pool at one size: set "
            "MANAGER_POOL_MIN_VMS and MANAGER_POOL_MAX_VMS instead"
        )


def not_settings(environment: Iterable[str]) -> Iterator[str]:
    """What has the form of a setting and is none: a sentence each."""
    known = [f"MANAGER_{name}".upper() for name in Settings.model_fields]
    for name in environment:
        if name.startswith("MANAGER_") and name not in known:
            meant = get_close_matches(name, known, 1, 0.85)
            perhaps = f": is it {meant[0]}?" if meant else ""
            yield f"{name} is no setting, and has no effect{perhaps}"
