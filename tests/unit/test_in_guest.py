"""What is told to who asks for something of a container whose VM is not there."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from tests.support.absent import ABSENT

from warmboot.manager.containers.in_guest import InGuest
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.errors import Conflict, VmGone
from warmboot.model.shapes import Shape


def found(state: ContainerState) -> InGuest:
    now, spec = datetime.now(UTC), ContainerSpec("web", "alpine:3")
    container = Container(uuid4(), spec, state, now, Shape(1, 512), docker_id="d1")

    async def get(_: str) -> Container:
        return container

    return InGuest(ABSENT, get, ABSENT, ABSENT)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (ContainerState.PARKED, "web is parked, wake it first"),
        (ContainerState.WAKING, "web is waking"),
    ],
)
async def test_one_without_a_vm_for_now_has_not_lost_it(state: ContainerState, said: str) -> None:
    with pytest.raises(Conflict) as refused:
        await found(state)("web")
    assert refused.value.brief == said


async def test_one_that_has_failed_has() -> None:
    with pytest.raises(VmGone, match="is gone"):
        await found(ContainerState.FAILED)("web")
