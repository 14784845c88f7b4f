"""What the simulated Docker refuses of a container's configuration, and when it restarts one."""

from __future__ import annotations

from typing import Any

from warmboot.hypervisors.simulated.vmm.docker.http import HttpError

Record = dict[str, Any]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0
_OF_ITS_OWN = {
    "Dns": "dns and the network mode",
    "DnsSearch": "dns and the network mode",
    "DnsOptions": "dns and the network mode",
    "ExtraHosts": "custom host-to-IP mapping and the network mode",
    "PortBindings": "port publishing and the container type network mode",
}


def check(body: Record) -> None:
    """Refuse, with 400, options that cannot be given together."""
    host = body.get("HostConfig") or {}
    if str(host.get("NetworkMode", "")).startswith("container:"):
        for field, what in _OF_ITS_OWN.items():
            if host.get(field):
                raise HttpError(400, f"conflicting options: {what}")
        if any(name.startswith("net.") for name in host.get("Sysctls") or ()):
            raise HttpError(400, "the sysctl requires a new network namespace")
    policy = host.get("RestartPolicy") or {}
    if host.get("AutoRemove") and policy.get("Name", "no") not in ("", "no"):
        raise HttpError(400, "can't create 'AutoRemove' container with restart policy")


def restarts(record: Record, status: int) -> bool:
    """Whether a container that has just ended with ``status`` is started again."""
    policy = record["host_config"].get("RestartPolicy") or {}
    most = int(policy.get("MaximumRetryCount") or 0)
    if record["stopped"]:
        return False
    match policy.get("Name"):
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            return status != 0 and (not most or record["restarts"] < most)
    return False


def pause_s(restarts: int) -> float:
    """The pause before a container is restarted for the n-th time."""
    return min(_FIRST_PAUSE_S * 2.0 ** (restarts - 1), _LONGEST_PAUSE_S)
