"""``/v1/gc``: lists or collects garbage."""

from __future__ import annotations

from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, StrictBool

from warmboot.api.routing import Wired
from warmboot.api.schemas.requests import Strict
from warmboot.api.schemas.responses import Item
from warmboot.model.garbage import Collection, Garbage, Kind, Why

router = APIRouter(prefix="/v1/gc", tags=["housekeeping"])


class CollectIn(Strict):
    """``dry_run``: only say what would go."""

    dry_run: StrictBool = False


class GarbageOut(BaseModel):
    """One thing; ``size_bytes`` is what removing it frees."""

    kind: Kind
    name: str
    why: Why
    reason: str
    size_bytes: int
    path: str | None

    @classmethod
    def of(cls, one: Garbage) -> Self:
        return cls(
            kind=one.kind,
            name=one.name,
            why=one.why,
            reason=one.why.phrase,
            size_bytes=one.size_bytes,
            path=None if one.path is None else str(one.path),
        )


class CollectionOut(BaseModel):
    """``kept`` could not be removed this time: it was in use, or the machine refused."""

    dry_run: bool
    removed: list[GarbageOut]
    kept: list[GarbageOut]
    freed_bytes: int
    seconds: float

    @classmethod
    def of(cls, done: Collection) -> Self:
        return cls(
            dry_run=done.dry_run,
            removed=[GarbageOut.of(one) for one in done.removed],
            kept=[GarbageOut.of(one) for one in done.kept],
            freed_bytes=done.freed_bytes,
            seconds=done.seconds,
        )


@router.post("", summary="Remove what may go: unused, deleted, nobody's, over a limit")
async def collect(services: Wired, body: CollectIn | None = None) -> Item[CollectionOut]:
    dry_run = body is not None and body.dry_run
    return Item(item=CollectionOut.of(await services.garbage.collect(dry_run=dry_run)))
