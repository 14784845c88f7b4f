"""An image that does not fit where it is to be prepared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from tests.support.absent import ABSENT

from warmboot.manager.snapshots.build_image_snapshot import BuildImageSnapshot, ImageBuildNotes
from warmboot.manager.snapshots.retries import NO_VERDICT
from warmboot.model.errors import Conflict, ContainerError, DiskFull
from warmboot.model.runtime_snapshot import HostRequirements

SIZE_BYTES = 3 << 30


class Host:
    """Implements what a build asks of a host: the guest's Docker has no room for an image, and what
    was published takes ``SIZE_BYTES``."""

    def __init__(self) -> None:
        self.vms, self.snapshots, self.storage = self, self, self
        self.full = False

    def check_room(self, _: int) -> None:
        if self.full:
            raise DiskFull("the disk is full", details="it is filled to its floor")

    async def memory_metadata(self, _: object) -> dict[str, object]:
        return {"size_bytes": SIZE_BYTES}

    async def pull_image(self, *_: object) -> None:
        raise DiskFull("the VM's disk is full (pulling big:1)", details="no space left on device")


class Events:
    async def emit(self, *_: object, **__: object) -> None: ...

    def transaction(self) -> None:
        raise NotImplementedError("it is about to be stored")


def step(name: str, budget_bytes: int = 0, known: Host | None = None) -> Any:
    host: Any = known or Host()
    events: Any = Events()
    parts = (ABSENT, host, ABSENT, events, ABSENT, ABSENT)
    steps = BuildImageSnapshot(*parts, budget_bytes=budget_bytes).saga.steps
    return next(one for one in steps if one.name == name)


PULLED: Any = SimpleNamespace(
    snapshot=SimpleNamespace(id=UUID(int=1)),
    watch=SimpleNamespace(elapsed_s=1.0),
    reference="big:1",
)


async def test_what_the_guests_disk_is_too_small_for_does_not_wait_for_room_on_the_host() -> None:
    with pytest.raises(ContainerError, match="the VM's disk is full") as raised:
        await step("pull").do(ImageBuildNotes(UUID(int=2)), PULLED)
    assert not isinstance(raised.value, NO_VERDICT), "or it would be pulled again and again"


async def test_what_goes_wrong_on_a_full_disk_of_the_host_waits_for_room() -> None:
    host = Host()
    host.full = True
    with pytest.raises(DiskFull, match="the disk is full") as raised:
        await step("pull", known=host).do(ImageBuildNotes(UUID(int=2)), PULLED)
    assert "what could not go on" in raised.value.details


@pytest.mark.parametrize(
    ("budget_bytes", "told"),
    [
        (SIZE_BYTES - (1 << 20), "big:1 is too large to be prepared: it takes 3072 MiB"),
        (SIZE_BYTES, "it is about to be stored"),
        (0, "it is about to be stored"),
    ],
)
async def test_what_takes_more_than_all_may_is_not_prepared(budget_bytes: int, told: str) -> None:
    """It would be collected as soon as it is ready, and made again by the next starts."""
    build: Any = SimpleNamespace(
        snapshot=SimpleNamespace(id=UUID(int=1), snapshot_path=None, replaces=None),
        manifest=SimpleNamespace(
            moment=SimpleNamespace(disk_base=None),
            agent_version="1",
            requires=HostRequirements("qemu", "1", "tcg", "q35", "max"),
        ),
        base=SimpleNamespace(metadata={}),
        watch=SimpleNamespace(elapsed_s=1.0),
        reference="big:1",
        digest="sha256:big",
    )
    with pytest.raises((Conflict, NotImplementedError), match=told):
        await step("swap", budget_bytes).do(ImageBuildNotes(UUID(int=2)), build)
