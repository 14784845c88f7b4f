"""What a container's Docker is told beside its image and command: Docker's own options.

    --init, --privileged, … ──▶ ContainerOptions ──▶ HostConfig and Healthcheck in its VM

A VM has a Docker of its own, so these mean what they mean there. Pure rules: what contradicts
itself is refused in Docker's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmboot.model.errors import InvalidRequest

ULIMITS = frozenset({
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
})  # fmt: skip
"""What Docker can limit of a process."""

CAPABILITIES = frozenset({
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF",
    "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID",
    "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN",
    "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW",
    "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
    "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
})  # fmt: skip
"""Those of Linux, without ``CAP_``."""


class RestartMode(StrEnum):
    """The cases in which Docker in the VM starts a process again that has ended, while the
    VM lives.
    """

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class PullPolicy(StrEnum):
    """``missing``: pull the image if Docker in the VM does not have it."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class Health(StrEnum):
    """What a container's health check has found. ``none``: it has no check."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class MountType(StrEnum):
    VOLUME = "volume"
    TMPFS = "tmpfs"
    BIND = "bind"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """``maximum_retries`` 0: without end."""

    mode: RestartMode = RestartMode.NO
    maximum_retries: int = 0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """``test`` as in Docker: ``("CMD-SHELL", "curl -f …")``, ``("NONE",)`` for none, ``()`` for the
    image's. What is ``None`` is the image's or Docker's; times are in seconds."""

    test: tuple[str, ...] = ()
    interval_s: float | None = None
    timeout_s: float | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    retries: int | None = None

    @property
    def disabled(self) -> bool:
        return self.test == ("NONE",)

    @property
    def timed(self) -> bool:
        """Whether it says when it is to be done."""
        when = (self.interval_s, self.timeout_s, self.start_period_s, self.start_interval_s)
        return any(one is not None for one in (*when, self.retries))


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit of a process's resource; -1 means none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume, a tmpfs or a path of the host's at ``target``, an absolute path in the container.

    ``source`` is the volume's name, or the absolute path on the host of what is bound; a volume
    without one is new. ``size_bytes`` and ``mode`` are those of a tmpfs.
    """

    target: str
    type: MountType = MountType.VOLUME
    source: str = ""
    read_only: bool = False
    size_bytes: int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """What is empty or ``None`` is Docker's default.

    ``tmpfs`` has options by path, ``add_hosts`` ``NAME:ADDRESS``. ``cpus`` is how much of its VM's
    CPUs it may use; ``pids_limit`` -1 is none. ``platform`` is ``OS/ARCHITECTURE``.
    """

    init: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size_bytes: int | None = None
    pids_limit: int | None = None
    cpus: float | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthCheck | None = None
    add_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    pull: PullPolicy = PullPolicy.MISSING
    platform: str = ""

    @property
    def own_network(self) -> bool:
        """Whether it needs a network of its own: the prepared one is there before it, with names
        and settings that Docker does not let another container change."""
        named = (self.add_hosts, self.dns, self.dns_search, self.dns_options)
        return any(named) or any(name.startswith("net.") for name in self.sysctls)

    def check(self, *, auto_remove: bool, archive: bool) -> None:
        """``InvalidRequest`` for what contradicts itself, in Docker's words."""
        restart, health = self.restart, self.health
        if auto_remove and restart.mode is not RestartMode.NO:
            raise InvalidRequest("conflicting options: cannot specify both --restart and --rm")
        if restart.maximum_retries and restart.mode is not RestartMode.ON_FAILURE:
            raise InvalidRequest(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            )
        if health is not None and health.disabled and health.timed:
            raise InvalidRequest("--no-healthcheck conflicts with --health-* options")
        if archive and self.pull is PullPolicy.ALWAYS:
            raise InvalidRequest("conflicting options: cannot specify both --archive and --pull")
        for option, names in (("CapAdd", self.cap_add), ("CapDrop", self.cap_drop)):
            for name in names:
                plain = name.upper().removeprefix("CAP_")
                if plain not in CAPABILITIES and name.upper() != "ALL":
                    raise InvalidRequest(f'invalid {option}: unknown capability: "CAP_{plain}"')
        for limit in self.ulimits:
            if limit.name not in ULIMITS:
                raise InvalidRequest(f"invalid ulimit type: {limit.name}")
        for mount in self.mounts:
            if (mount.type is MountType.BIND) != mount.source.startswith("/"):
                raise InvalidRequest(
                    f"invalid mount config for type {mount.type.value!r}: invalid source: "
                    f"{mount.source!r}",
                    details="of type bind it is an absolute path, of others none",
                )
        seen = set[str]()
        for target in (*self.tmpfs, *(mount.target for mount in self.mounts)):
            place = target.rstrip("/")
            if not place:
                raise InvalidRequest("invalid specification: destination can't be '/'")
            if place in seen:
                raise InvalidRequest(f"Duplicate mount point: {target}")
            seen.add(place)


_MACHINES = {
    **dict.fromkeys(("x86_64", "x86-64", "amd64"), "amd64"),
    **dict.fromkeys(("aarch64", "arm64"), "arm64"),
}


def check_platform(platform: str, machine: str) -> None:
    """``InvalidRequest``, in Docker's words, if a VM on this ``machine`` (as ``uname -m`` calls it)
    is not of the ``platform``: its processor is the host's."""
    if not platform:
        return
    own = _MACHINES.get(machine, machine)
    first, _, rest = platform.lower().partition("/")
    system, processor = (first, rest.partition("/")[0]) if rest else ("linux", first)
    if (system, processor) == ("linux", "linux"):  # the system alone: any processor
        processor = own
    if (system, _MACHINES.get(processor, processor)) != ("linux", own):
        raise InvalidRequest(
            f"the requested image's platform ({platform}) does not match the detected host "
            f"platform (linux/{own})",
            details="a VM has the processor of its host, and is not emulated for another",
            resolution=f"leave out --platform, or use an image for linux/{own}",
        )
