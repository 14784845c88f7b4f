"""Response models for runtime images."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from warmboot.manager.ports import Registered
from warmboot.model.runtime_image import RuntimeImage


class RegisteredOut(BaseModel):
    """``snapshot_id`` is its snapshot of the default shape, if it has one or gets one."""

    id: UUID
    snapshot_id: UUID | None
    snapshot_begun: bool = Field(description="its build was begun by this registration")
    note: str = Field(description="why there is no snapshot")

    @classmethod
    def of(cls, registered: Registered) -> Self:
        return cls(
            id=registered.image.id,
            snapshot_id=registered.snapshot_id,
            snapshot_begun=registered.begun,
            note=registered.note,
        )


class FileSumOut(BaseModel):
    size_bytes: int
    sha256: str


class RuntimeImageOut(BaseModel):
    id: UUID
    name: str
    digest: str
    path: str
    created_at: datetime
    agent_version: str
    cmdline: str
    files: dict[str, FileSumOut]
    labels: dict[str, str]
    damage: dict[str, Any] | None = Field(
        description="the error with which it was found damaged; nothing is booted from it then"
    )

    @classmethod
    def of(cls, image: RuntimeImage) -> Self:
        manifest = image.manifest
        return cls(
            id=image.id,
            name=image.name,
            digest=image.digest,
            path=str(image.path),
            created_at=image.created_at,
            agent_version=manifest.agent_version,
            cmdline=manifest.cmdline,
            files={
                name: FileSumOut(size_bytes=entry.size_bytes, sha256=entry.sha256)
                for name, entry in manifest.files.items()
            },
            labels=dict(manifest.labels),
            damage=None if image.damage is None else dict(image.damage),
        )
