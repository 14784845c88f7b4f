"""Response models for runtime images."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import AliasPath, Field

from warmboot.api.schemas.responses import AsText, Out
from warmboot.model.runtime_image import RuntimeImage


def _manifest(name: str) -> Any:
    return Field(validation_alias=AliasPath("manifest", name))


class RegisteredOut(Out):
    """``snapshot_id`` is its snapshot of the default shape, if it has one or gets one."""

    id: UUID = Field(validation_alias=AliasPath("image", "id"))
    snapshot_id: UUID | None
    snapshot_begun: bool = Field(
        validation_alias="begun", description="its build was begun by this registration"
    )
    note: str = Field(description="why there is no snapshot")


class FileSumOut(Out):
    size_bytes: int
    sha256: str


class RuntimeImageOut(Out):
    id: UUID
    name: str
    digest: str
    path: AsText
    created_at: datetime
    agent_version: str = _manifest("agent_version")
    cmdline: str = _manifest("cmdline")
    files: dict[str, FileSumOut] = _manifest("files")
    labels: dict[str, str] = _manifest("labels")
    stored_bytes: int = Field(
        description="what its files occupy on the disk: their sizes without the holes in them"
    )
    damage: dict[str, Any] | None = Field(
        description="the error with which it was found damaged; nothing is booted from it then"
    )

    @classmethod
    def measured(cls, image: RuntimeImage, stored_bytes: int) -> Self:
        """``image``, and what is stored of it."""
        return cls.model_validate(asdict(image) | {"stored_bytes": stored_bytes})
