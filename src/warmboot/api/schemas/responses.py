"""Response models that several resources share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

T = TypeVar("T")


AsText = Annotated[str, BeforeValidator(str)]


class Out(BaseModel):
    """Something of the model as it is told: each field by its name, or where its alias leads."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, thing: object) -> Self:
        return cls.model_validate(thing)


def asked(name: str) -> Any:
    """A field that is told as it was asked for."""
    return Field(validation_alias=AliasPath("spec", name))


class Items(BaseModel, Generic[T]):
    items: list[T]


class Paged(Items[T], Generic[T]):
    """Items of a list that can be asked for part by part."""

    next_cursor: Annotated[
        str | SkipJsonSchema[None],
        Field(
            exclude_if=lambda cursor: cursor is None,
            description="the cursor of the part after this; left out if there is none",
        ),
    ] = None


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


class ShapeOut(Out):
    vcpus: int
    memory_mib: int


class EventOut(Out):
    id: int
    at: datetime
    kind: str
    subject_id: str
    data: dict[str, Any]


class FolderOut(Out):
    """A folder of the manager's machine that an engine or a container was given."""

    path: str = Field(description="its path on the manager's machine, without symbolic links")
    read_only: bool = Field(description="whether nothing can be changed in it from inside")
