"""``/v1/runtime-images``."""

from __future__ import annotations

from fastapi import APIRouter

from warmboot.api.routing import (
    Id,
    Paging,
    Part,
    Wired,
    named,
    paged,
)
from warmboot.api.schemas.image_responses import RegisteredOut, RuntimeImageOut
from warmboot.api.schemas.requests import RuntimeImageIn
from warmboot.api.schemas.responses import Item, Ok, Paged

router = APIRouter(prefix="/v1/runtime-images", tags=["runtime images"])


@router.post("", status_code=201, summary="Register an image; its snapshot is begun")
async def register_runtime_image(body: RuntimeImageIn, services: Wired) -> RegisteredOut:
    paths = body.paths()
    registered = await services.images.register(
        name=body.name,
        path=paths["path"],
        kernel=paths["kernel"],
        rootfs=paths["rootfs"],
        initrd=paths["initrd"],
        build_snapshot=body.build_snapshot,
    )
    return RegisteredOut.of(registered)


@router.get("", summary="List runtime images")
async def list_runtime_images(
    services: Wired, wanted: Paging, name: Part = ""
) -> Paged[RuntimeImageOut]:
    """Oldest first."""
    page = await services.pages.images(named(wanted, name), lambda image: name in image.name)
    stored = {one.id: await services.images.stored_bytes(one) for one in page.things}
    return paged(page, lambda one: RuntimeImageOut.measured(one, stored[one.id]))


@router.get("/{id}", summary="Show a runtime image")
async def get_runtime_image(id: Id, services: Wired) -> Item[RuntimeImageOut]:
    image = await services.images.get(id)
    return Item(item=RuntimeImageOut.measured(image, await services.images.stored_bytes(image)))


@router.delete("/{id}", summary="Remove a runtime image that nothing uses")
async def delete_runtime_image(id: Id, services: Wired) -> Ok:
    await services.images.delete(id)
    return Ok()
