"""The user's container in its VM: how it is made there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from warmboot.docker.client import config_of
from warmboot.docker.references import split_reference
from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.container import ContainerSpec
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


OPEN_FILES = {"Name": "nofile", "Soft": 1024, "Hard": 524_288}
"""As for an engine that systemd has started: what it gives its own services."""


async def name_loaded_image(link: GuestLink, loaded: list[str], reference: str) -> None:
    """See to it that ``reference`` names an image of the archive: the only one it has."""
    if await link.docker.has_image(reference):
        return
    if len({await link.docker.image_digest(name) for name in loaded}) != 1:
        raise ImageNotFound(
            f"the archive has no image {reference}",
            details=f"it has: {', '.join(loaded) or 'none'}",
            resolution="name one of these",
        )
    await link.docker.tag(loaded[0], *split_reference(reference))


async def ensure_created(link: GuestLink, spec: ContainerSpec) -> tuple[str, bool]:
    """Docker's id of the container, created if it is not there, and whether it never ran yet."""
    await link.ensure_sandbox()  # also for one that is there: its VM may have been booted again
    with contextlib.suppress(NotFound):
        known = await link.docker.inspect(DOCKER_NAME)
        return known.id, known.status == "created"
    given = await link.docker.image_environment(spec.image)
    return await link.docker.create(DOCKER_NAME, _docker_config(spec, given)), True


def _docker_config(spec: ContainerSpec, of_image: Sequence[str]) -> dict[str, Any]:
    # Docker would set the sandbox's host name; the image's own HOSTNAME comes before either. The
    # VM has all ports to itself: which of them are published is the host's to decide.
    named = any(variable.startswith("HOSTNAME=") for variable in of_image)
    environment = {} if named else {"HOSTNAME": spec.host_name}
    config = config_of(spec, environment, SANDBOX | LOG | {"Ulimits": [OPEN_FILES]}) | {
        "OpenStdin": spec.stdin_open,
        "StdinOnce": spec.stdin_open,
        "AttachStdin": spec.stdin_open,
        "AttachStdout": True,
        "AttachStderr": True,
    }
    if spec.stop_timeout_s is not None:
        config["StopTimeout"] = spec.stop_timeout_s
    asked = {"User": spec.user, "WorkingDir": spec.working_dir, "StopSignal": spec.stop_signal}
    return config | {key: value for key, value in asked.items() if value}
