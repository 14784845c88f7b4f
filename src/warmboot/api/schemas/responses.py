"""Response models that several resources share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from warmboot.model.journal.event import Event
from warmboot.model.shapes import Shape

T = TypeVar("T")


class Items(BaseModel, Generic[T]):
    items: list[T]


class Item(BaseModel, Generic[T]):
    item: T


class Created(BaseModel):
    id: UUID


class Uploaded(BaseModel):
    id: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the archive")


class Ok(BaseModel):
    ok: Literal[True] = True


class ProblemField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457, with a stable ``code`` and what to do about it (``resolution``)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    resolution: str
    errors: list[ProblemField] = []
    id: str = ""


class ShapeOut(BaseModel):
    vcpus: int
    memory_mib: int

    @classmethod
    def of(cls, shape: Shape) -> Self:
        return cls(vcpus=shape.vcpus, memory_mib=shape.memory_mib)


class EventOut(BaseModel):
    id: int
    at: datetime
    kind: str
    subject_id: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event.id,
            at=event.at,
            kind=event.kind,
            subject_id=event.subject_id,
            data=dict(event.data),
        )
