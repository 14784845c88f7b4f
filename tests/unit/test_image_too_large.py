"""An image that does not fit where it is to be prepared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from tests.support.absent import ABSENT

from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot, ImageBuildNotes
from warmboot.manager.snapshots.retries import NO_VERDICT
from warmboot.model.errors import ContainerError, DiskFull


class Host:
    """Implements what a pull asks of a host: the guest's Docker has no room for the image."""

    def __init__(self) -> None:
        self.vms = self

    async def pull_image(self, *_: object) -> None:
        raise DiskFull("the VM's disk is full (pulling big:1)", details="no space left on device")


class Events:
    async def emit(self, *_: object, **__: object) -> None: ...


async def test_what_the_guests_disk_is_too_small_for_does_not_wait_for_room_on_the_host() -> None:
    parts: tuple[Any, ...] = (ABSENT, Host(), ABSENT, Events(), ABSENT, ABSENT)
    (pull,) = [step for step in BuildImageSnapshot(*parts).saga.steps if step.name == "pull"]
    build: Any = SimpleNamespace(
        snapshot=SimpleNamespace(id=UUID(int=1)),
        watch=SimpleNamespace(elapsed_s=1.0),
        reference="big:1",
    )
    with pytest.raises(ContainerError, match="the VM's disk is full") as raised:
        await pull.do(ImageBuildNotes(UUID(int=2)), build)
    assert not isinstance(raised.value, NO_VERDICT), "or it would be pulled again and again"
