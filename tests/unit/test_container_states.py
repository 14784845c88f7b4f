"""What somebody who waits for a container takes for the end of that."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from warmboot.manager.containers.container_states import has_reached
from warmboot.manager.protocols import Until
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.shapes import Shape


@pytest.mark.parametrize(
    ("state", "reached"),
    [
        (ContainerState.CREATING, False),
        (ContainerState.WAKING, False),
        (ContainerState.RUNNING, True),
        (ContainerState.EXITED, True),
        (ContainerState.FAILED, True),
    ],
)
def test_one_that_wakes_does_not_run_yet(state: ContainerState, reached: bool) -> None:
    spec = ContainerSpec("web", "alpine:3")
    container = Container(uuid4(), spec, state, datetime.now(UTC), Shape(1, 512))
    assert has_reached(container, Until.RUNNING) is reached
