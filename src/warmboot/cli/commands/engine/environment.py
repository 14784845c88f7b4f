"""What a program's environment says so that it uses an engine, and no other Docker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmboot.client.engines import Engine

UNSET = ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
"""They would come before, or go along."""

_HOST = ("TESTCONTAINERS_HOST_OVERRIDE", "TC_HOST")


def environment_of(engine: Engine) -> Mapping[str, str]:
    """``DOCKER_HOST``, and what testcontainers reads beside it.

    What it mounts into its own containers is a path of the engine's VM. It connects to published
    ports at the engine's own address (earlier releases of it read TC_HOST); what it would guess
    are other addresses, if it runs in a container itself.
    """
    return {
        "DOCKER_HOST": engine.docker_host,
        "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": "/var/run/docker.sock",
        "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
        "WARMBOOT_ENGINE": engine.name,
        **dict.fromkeys(_HOST, engine.address or "127.0.0.1"),
    }
