"""A container's options, as Docker's API has them. Pure functions."""

from __future__ import annotations

from typing import Any

from warmboot.model.tenants.container_options import (
    ContainerOptions,
    HealthCheck,
    Mount,
    MountType,
    Ulimit,
)

OPEN_FILES = Ulimit("nofile", 1024, 524_288)
"""As for an engine that systemd has started: what it gives its own services."""

_NS = 1_000_000_000


def host_config(options: ContainerOptions) -> dict[str, Any]:
    """What of a ``HostConfig`` the ``options`` ask for, without its network."""
    named = {limit.name: limit for limit in (OPEN_FILES, *options.ulimits)}
    config: dict[str, Any] = {
        "Ulimits": [
            {"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in named.values()
        ]
    }
    restart = options.restart
    asked = {
        "Init": options.init,
        "Privileged": options.privileged,
        "CapAdd": list(options.cap_add),
        "CapDrop": list(options.cap_drop),
        "ReadonlyRootfs": options.read_only,
        "Tmpfs": dict(options.tmpfs),
        "Mounts": [_mount(mount) for mount in options.mounts],
        "ShmSize": options.shm_size_bytes,
        "PidsLimit": options.pids_limit,
        "NanoCpus": None if options.cpus is None else round(options.cpus * _NS),
        "Sysctls": dict(options.sysctls),
        "ExtraHosts": list(options.add_hosts),
        "Dns": list(options.dns),
        "DnsSearch": list(options.dns_search),
        "DnsOptions": list(options.dns_options),
    }
    config |= {key: value for key, value in asked.items() if value}
    if restart.mode != "no":
        config["RestartPolicy"] = {
            "Name": restart.mode.value,
            "MaximumRetryCount": restart.maximum_retries,
        }
    return config


def health_config(check: HealthCheck) -> dict[str, Any]:
    """Docker's ``Healthcheck``; it takes times in nanoseconds, and 0 for the image's own."""
    times = {
        "Interval": check.interval_s,
        "Timeout": check.timeout_s,
        "StartPeriod": check.start_period_s,
        "StartInterval": check.start_interval_s,
    }
    config: dict[str, Any] = {
        key: round(seconds * _NS) for key, seconds in times.items() if seconds is not None
    }
    if check.test:
        config["Test"] = list(check.test)
    if check.retries is not None:
        config["Retries"] = check.retries
    return config


def _mount(mount: Mount) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Type": mount.type.value,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if mount.type is not MountType.TMPFS:
        return config | ({"Source": mount.source} if mount.source else {})
    limits = {"SizeBytes": mount.size_bytes, "Mode": mount.mode}
    return config | {
        "TmpfsOptions": {key: value for key, value in limits.items() if value is not None}
    }
