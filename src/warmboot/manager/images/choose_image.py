"""Chooses the runtime image from which a VM is booted."""

from __future__ import annotations

from uuid import UUID

from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_image import DEFAULT_IMAGE
from warmboot.store import Store


async def choose_image(store: Store, asked: UUID | None) -> UUID:
    """The one that was asked for, else the one named ``default``, else the oldest.

    Raises ``NotFound`` for one that is not there, ``InvalidRequest`` where there is none at all.
    """
    if asked is not None:
        return (await store.images.get(asked)).id
    images = await store.images.list()
    if not images:
        raise InvalidRequest(
            "there is no runtime image",
            resolution="build and register one: `warmboot runtime build`, "
            "`warmboot runtime register`",
        )
    named = (image.id for image in images if image.name == DEFAULT_IMAGE)
    return next(named, images[0].id)
