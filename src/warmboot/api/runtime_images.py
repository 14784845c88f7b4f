"""``/v1/runtime-images``."""

from __future__ import annotations

from fastapi import APIRouter

from warmboot.api.requests import RuntimeImageIn
from warmboot.api.responses import Created, Item, Items, Ok, RuntimeImageOut
from warmboot.api.routing import Id, Wired

router = APIRouter(prefix="/v1/runtime-images", tags=["runtime images"])


@router.post("", status_code=201, summary="Register an image folder, or bare files")
async def register(body: RuntimeImageIn, services: Wired) -> Created:
    image = await services.images.register(name=body.name, **body.paths())
    return Created(id=image.id)


@router.get("", summary="List runtime images")
async def list_images(services: Wired) -> Items[RuntimeImageOut]:
    return Items(items=[RuntimeImageOut.of(image) for image in await services.images.list()])


@router.get("/{id}", summary="Show a runtime image")
async def show(id: Id, services: Wired) -> Item[RuntimeImageOut]:
    return Item(item=RuntimeImageOut.of(await services.images.get(id)))


@router.delete("/{id}", summary="Remove a runtime image that nothing uses")
async def delete(id: Id, services: Wired) -> Ok:
    await services.images.delete(id)
    return Ok()
