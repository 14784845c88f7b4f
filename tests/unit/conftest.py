"""A guest agent that serves in this process, and the Docker that it finds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.guests import FakeDocker, Guest


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.listener.shutdown(socket.SHUT_RDWR)
    guest.listener.close()


@pytest.fixture
def docker(guest: Guest) -> Iterator[FakeDocker]:
    docker = FakeDocker(guest.docker_path)
    yield docker
    docker.listener.shutdown(socket.SHUT_RDWR)
    docker.listener.close()
