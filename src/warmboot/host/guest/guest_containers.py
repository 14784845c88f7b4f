"""The user's container in its VM: how it is made there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmboot.docker.client import config_of
from warmboot.docker.facts import is_check
from warmboot.docker.references import split_reference
from warmboot.host.guest.docker_options import health_config, host_config
from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.container import ContainerSpec, PortMapping
from warmboot.model.conventions.port_ranges import port_range
from warmboot.model.errors import ImageNotFound, NotFound

DOCKER_NAME = "warmboot"
"""The name in the VM, where nobody sees it. The user's own may be too short for Docker."""

SANDBOX = {
    "NetworkMode": "container:warmboot-sandbox",
    "UTSMode": "host",
    "Annotations": {"io.containerd.runc.v2.group": "warmboot"},
}
"""The network that is there before the container, and the shim that runs (``guest/sandbox.py``)."""

LOG = {
    "LogConfig": {
        "Type": "local",
        "Config": {"max-size": "10m", "max-file": "3", "compress": "false"},
    }
}
"""Docker's usual log, ``json-file``, keeps text: what is not UTF-8 would not be as it was."""


@dataclass(frozen=True, slots=True)
class Created:
    """``docker_id`` is Docker's id of the container, which never ran yet if it is ``fresh``.

    ``checked``: it has a health check.
    """

    docker_id: str
    fresh: bool
    checked: bool


async def name_loaded_image(link: GuestLink, loaded: list[str], reference: str) -> None:
    """Give the only image of a loaded archive the name ``reference``, if none has it."""
    if await link.docker.has_image(reference):
        return
    if len({await link.docker.image_digest(name) for name in loaded}) != 1:
        raise ImageNotFound(
            f"the archive has no image {reference}",
            details=f"it has: {', '.join(loaded) or 'none'}",
            resolution="name one of these",
        )
    await link.docker.tag(loaded[0], *split_reference(reference))


async def exposed_ports(link: GuestLink, spec: ContainerSpec) -> tuple[PortMapping, ...]:
    """The ports that its image exposes, and which are to be published beside those it names."""
    if not spec.publish_all:
        return ()
    return _exposed(spec, await link.docker.image_config(spec.image))


def _exposed(spec: ContainerSpec, of_image: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    named = {f"{port.container_port}/{port.protocol}" for port in spec.ports}
    found = []
    for text in sorted(set(of_image.get("ExposedPorts") or ()) - named):
        number, _, protocol = text.partition("/")
        first, last = port_range(number) or (0, 0)
        if first and (protocol or "tcp") in ("tcp", "udp"):
            found += [
                PortMapping(one, protocol=protocol or "tcp") for one in range(first, last + 1)
            ]
    return tuple(found)


async def ensure_created(link: GuestLink, spec: ContainerSpec) -> Created:
    """The container in its VM, created if it is not there."""
    if not spec.options.own_network:
        await link.ensure_sandbox()  # also for one that is there: its VM may be booted again
    with contextlib.suppress(NotFound):
        known = await link.docker.inspect(DOCKER_NAME)
        return Created(known.id, known.status == "created", known.checked)
    of_image = await link.docker.image_config(spec.image)
    config = _docker_config(spec, of_image)
    docker_id = await link.docker.create(DOCKER_NAME, config, spec.options.platform)
    own = config.get("Healthcheck") or {}
    check = own if own.get("Test") else of_image.get("Healthcheck")
    return Created(docker_id, True, is_check(check))


def _docker_config(spec: ContainerSpec, of_image: Mapping[str, Any]) -> dict[str, Any]:
    # Docker would set the sandbox's host name; the image's own HOSTNAME comes before either. The
    # VM has all ports to itself: which of them are published is the host's to decide.
    own = spec.options.own_network
    network = _own_network(spec, of_image) if own else SANDBOX
    named = own or any(one.startswith("HOSTNAME=") for one in of_image.get("Env") or ())
    environment = {} if named else {"HOSTNAME": spec.host_name}
    config = config_of(spec, environment, network | LOG | host_config(spec.options)) | {
        "OpenStdin": spec.stdin_open,
        "StdinOnce": spec.stdin_open,
        "AttachStdin": spec.stdin_open,
        "AttachStdout": True,
        "AttachStderr": True,
    }
    if own:
        config["Hostname"] = spec.host_name
        config["ExposedPorts"] = {port: {} for port in network["PortBindings"]}
    if spec.options.health is not None:
        config["Healthcheck"] = health_config(spec.options.health)
    if spec.stop_timeout_s is not None:
        config["StopTimeout"] = spec.stop_timeout_s
    asked = {"User": spec.user, "WorkingDir": spec.working_dir, "StopSignal": spec.stop_signal}
    return config | {key: value for key, value in asked.items() if value}


def _own_network(spec: ContainerSpec, of_image: Mapping[str, Any]) -> dict[str, Any]:
    """What the host sends into the VM goes to its ports of the same numbers."""
    exposed = _exposed(spec, of_image) if spec.publish_all else ()
    ports = {f"{port.container_port}/{port.protocol}": port for port in (*spec.ports, *exposed)}
    return {
        "NetworkMode": "bridge",
        "Annotations": SANDBOX["Annotations"],
        "PortBindings": {
            name: [{"HostPort": str(port.container_port)}] for name, port in ports.items()
        },
    }
