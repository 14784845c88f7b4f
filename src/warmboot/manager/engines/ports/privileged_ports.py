"""The host's privileged ports: the manager is root, and publishes for who may not be."""

from __future__ import annotations

from pathlib import Path

from warmboot.model.container import PortMapping
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.engine import Engine

FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def check_privilege(engine: Engine, mapping: PortMapping) -> None:
    """``InvalidRequest`` for what the kernel would refuse to the engine's owner."""
    if not engine.spec.owner_uid or mapping.host_ip == engine.address != "":
        return
    first = _first_unprivileged()
    address = mapping.host_ip or "0.0.0.0"
    if 0 < mapping.host_port < first:
        raise InvalidRequest(
            f"Bind for {address}:{mapping.host_port} failed: permission denied",
            details=f"ports below {first} of this machine are root's "
            f"(net.ipv4.ip_unprivileged_port_start), and the engine is a user's",
            resolution="use another port of the host, or the engine's own address",
        )


def _first_unprivileged() -> int:
    try:
        return int(FIRST_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024
