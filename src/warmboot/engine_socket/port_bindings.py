"""Published ports, as Docker's requests and answers have them. Pure functions.

A container's ports are asked for at its creation (``HostConfig.PortBindings``). In its VM dockerd
publishes on all addresses, with the numbers that the host has: then what ``docker port`` says is
what works on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.limits import MOST_PORTS
from warmboot.model.conventions.port_ranges import MOST, port_number, port_range

_PROTOCOLS = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class WantedPort:
    """``port`` is the container's, ``80/tcp``. ``low`` to ``high``: any of these on the host; 0 to
    0 for any there is. ``host_ip`` empty: the usual address."""

    port: str
    host_ip: str
    low: int
    high: int

    @property
    def fixed(self) -> bool:
        """Whether the port was asked for by its number: then it is taken at the start, and
        not before.
        """
        return self.low == self.high != 0

    @property
    def protocol(self) -> str:
        return self.port.partition("/")[2] or "tcp"


def wants_all(config: Mapping[str, Any]) -> bool:
    """Whether all ports that the image exposes are to be published."""
    host = config.get("HostConfig")
    return isinstance(host, Mapping) and host.get("PublishAllPorts") is True


def wanted_ports(config: Mapping[str, Any], exposed: Mapping[str, Any]) -> list[WantedPort]:
    """What the body of a ``create`` asks for; ``exposed`` are the ports of its image.

    What makes no sense, or is not ours to decide (SCTP, IPv6), is left to dockerd. ``Refusal`` for
    too many.
    """
    host = config.get("HostConfig")
    host = host if isinstance(host, Mapping) else {}
    given = host.get("PortBindings")
    given = given if isinstance(given, Mapping) else {}
    found: list[WantedPort] = []
    for port, bindings in given.items():
        for binding in _listed(bindings) or [{}]:
            _add(found, _wanted(str(port), binding))
    if wants_all(config):
        own = config.get("ExposedPorts")
        own = own if isinstance(own, Mapping) else {}
        bound = {wanted.port for wanted in found}
        for port in sorted({*own, *exposed} - bound - set(given)):
            _add(found, _wanted(str(port), {}))
    return found


def _add(found: list[WantedPort], wanted: WantedPort | None) -> None:
    if wanted is None:
        return
    if len(found) >= MOST_PORTS:
        raise Refusal(400, f"a container in an engine can publish {MOST_PORTS} ports at most")
    found.append(wanted)


def _wanted(port: str, binding: Any) -> WantedPort | None:
    number, _, protocol = port.partition("/")
    if not isinstance(binding, Mapping) or (protocol or "tcp") not in _PROTOCOLS:
        return None
    address = str(binding.get("HostIp") or "")
    span = port_range(str(binding.get("HostPort") or ""))
    if span is None or (inside := port_number(number)) is None or not 1 <= inside <= MOST:
        return None
    if address and not _is_ipv4(address):
        return None
    return WantedPort(f"{number}/{protocol or 'tcp'}", address, *span)


def _listed(bindings: Any) -> list[Any]:
    return bindings if isinstance(bindings, list) else []


def _is_ipv4(address: str) -> bool:
    try:
        IPv4Address(address)
    except AddressValueError:
        return False
    return True


def filled_in(
    config: Mapping[str, Any], wanted: Sequence[WantedPort], numbers: Sequence[int]
) -> dict[str, Any]:
    """The body with these ``numbers`` on the host for what was ``wanted``."""
    host = dict(config.get("HostConfig") or {})
    given = dict(host.get("PortBindings") or {})
    for port in {one.port for one in wanted} | {one.port.partition("/")[0] for one in wanted}:
        kept = [
            binding for binding in _listed(given.pop(port, None)) if _wanted(port, binding) is None
        ]
        if kept:
            given[port] = kept
    for one, number in zip(wanted, numbers, strict=True):
        binding = {"HostIp": "", "HostPort": str(number)}
        given[one.port] = [*given.get(one.port, []), binding]
    host["PortBindings"] = given
    own = config.get("ExposedPorts")
    exposed = dict(own) if isinstance(own, Mapping) else {}
    exposed |= {one.port: exposed.get(one.port, {}) for one in wanted}
    return {**config, "HostConfig": host, "ExposedPorts": exposed}


def bound_ports(description: Mapping[str, Any]) -> list[WantedPort]:
    """What a container publishes when it is started, of dockerd's description of it."""
    host = description.get("HostConfig") or {}
    found: list[WantedPort] = []
    for port, bindings in (host.get("PortBindings") or {}).items():
        for binding in _listed(bindings):
            wanted = _wanted(str(port), binding)
            if wanted is not None and wanted.fixed:
                _add(found, wanted)
    return found


def taken(name: str, endpoint: str, host_ip: str, number: int) -> str:
    """Docker's own words for a port that somebody has."""
    return (
        f"driver failed programming external connectivity on endpoint {name} ({endpoint}): "
        f"Bind for {host_ip}:{number} failed: port is already allocated"
    )
