"""Images of another warmboot, whose guest agent is renewed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.managers import IMAGE_NAME, Lab, Manager, image_folder
from tests.support.prepared_labs import copied, moved

from warmboot.guest import AGENT_VERSION
from warmboot.images.files import load_manifest, stored_folder
from warmboot.images.guest_agent import agent_version_in
from warmboot.model import runtime_image
from warmboot.model.runtime_image import RENEWED_FROM, RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot

OLD = "0"


@contextmanager
def spoken(*protocols: str) -> Iterator[None]:
    """As if this were the warmboot that speaks these."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runtime_image, "GUEST_PROTOCOLS", frozenset(protocols))
        yield


async def register(manager: Manager, path: Path | None = None, **options: Any) -> RuntimeImage:
    path = path or await image_folder(OLD)
    registered = await manager.services.images.register(name=IMAGE_NAME, path=path, **options)
    return registered.image


async def before_the_upgrade(place: Lab) -> tuple[RuntimeImage, RuntimeSnapshot]:
    """An image and its snapshot, of the warmboot that spoke the old protocol."""

    async def build(template: Lab) -> tuple[RuntimeImage, RuntimeSnapshot]:
        with spoken(OLD):
            async with template.manager() as manager:
                image = await register(manager)
                made = await manager.snapshot()
                assert made.metadata["agent_version"] == OLD
                return image, await manager.snapshots.set_traits(made.id, weight=7, pinned=True)

    template, (image, snapshot) = await copied(place, "before the upgrade", build)
    path = place.storage / image.path.relative_to(template.storage)
    return replace(image, path=path), moved(snapshot, template, place)


async def renewed(manager: Manager) -> RuntimeImage:
    """The only image, whose agent was renewed; it is checked that it was."""
    (image,) = await manager.services.images.list()
    old = await image_folder(OLD)
    assert image.name == IMAGE_NAME
    assert image.manifest.agent_version == AGENT_VERSION
    assert image.manifest.labels[RENEWED_FROM] == load_manifest(old).digest
    assert image.path == stored_folder(manager.lab.storage, image.digest)
    assert await agent_version_in(image.rootfs) == AGENT_VERSION
    return image


async def renewals(manager: Manager) -> list[str]:
    events = await manager.services.events.list(limit=1000)
    return [e.kind for e in events if e.kind.startswith("runtime-image.renew")]


def folders(place: Lab) -> set[Path]:
    return set((place.storage / "runtime-images").iterdir())
