"""``/v1/gc``: lists or collects garbage."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import AliasPath, Field, StrictBool

from warmboot.api.routing import Wired
from warmboot.api.schemas.requests import Strict
from warmboot.api.schemas.responses import AsText, Item, Out
from warmboot.model.garbage import Kind, Why

router = APIRouter(prefix="/v1/gc", tags=["housekeeping"])


class CollectIn(Strict):
    """``dry_run``: only say what would go."""

    dry_run: StrictBool = False


class GarbageOut(Out):
    """One thing; ``size_bytes`` is what removing it frees."""

    kind: Kind
    name: str
    why: Why
    reason: str = Field(validation_alias=AliasPath("why", "phrase"))
    size_bytes: int
    path: AsText | None


class CollectionOut(Out):
    """``kept`` could not be removed this time: it was in use, or the machine refused."""

    dry_run: bool
    removed: list[GarbageOut]
    kept: list[GarbageOut]
    freed_bytes: int
    seconds: float


@router.post("", summary="Remove what may go: unused, deleted, nobody's, over a limit")
async def collect_garbage(services: Wired, body: CollectIn | None = None) -> Item[CollectionOut]:
    dry_run = body is not None and body.dry_run
    return Item(item=CollectionOut.of(await services.garbage.collect(dry_run=dry_run)))
