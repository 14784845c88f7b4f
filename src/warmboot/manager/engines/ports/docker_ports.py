"""What dockerd in an engine says about its containers' ports."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import structlog

from warmboot.host.agent import HostAgent
from warmboot.model.container import PortMapping
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.tenants.engine import Engine, EngineState

log = structlog.get_logger(__name__)

MOST_PORTS = 1024
"""Of one container."""


async def running_of(host: HostAgent, engine: Engine) -> dict[str, list[PortMapping]]:
    """Containers of an adopted engine, and what they publish; all that have ports, as long as it
    does not answer."""
    known: dict[str, list[PortMapping]] = {}
    for one in engine.ports:
        known.setdefault(one.container, []).append(one.mapping)
    if engine.vm_id is None or not (known or engine.state is EngineState.RUNNING):
        return {}
    found: dict[str, list[PortMapping]] = {}
    try:
        docker = host.vms.link(engine.vm_id).docker
        for container in await docker.running():
            with contextlib.suppress(NotFound):  # it has gone since
                mappings = known.get(container) or led_by(await docker.description(container))
                found[container] = mappings
    except WarmbootError as error:
        log.warning("an adopted engine does not answer yet", of=str(engine.id), why=error.brief)
        return known
    return found


def led_by(description: Mapping[str, Any]) -> list[PortMapping]:
    """What a running container has published in its VM, as it is to be on the host.

    At the usual address, whatever the guest says: that is for who is inside.
    """
    found: dict[PortMapping, None] = {}
    published = (description.get("NetworkSettings") or {}).get("Ports") or {}
    for port, bindings in published.items():
        protocol = port.partition("/")[2]
        for binding in bindings or []:
            number = int(binding.get("HostPort") or 0)
            if len(found) >= MOST_PORTS:
                return list(found)
            if protocol in ("tcp", "udp") and number and ":" not in binding.get("HostIp", ""):
                found[PortMapping(number, number, "", protocol)] = None
    return list(found)


def is_same(one: PortMapping, led: PortMapping) -> bool:
    """``one`` may not say at which address it is to be."""
    ends = (one.container_port, one.host_port, one.protocol)
    there = (led.container_port, led.host_port, led.protocol)
    return ends == there and one.host_ip in ("", led.host_ip)
