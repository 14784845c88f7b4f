"""Response models for runtime images."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AliasPath, Field

from warmboot.api.schemas.responses import AsText, Out


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
    damage: dict[str, Any] | None = Field(
        description="the error with which it was found damaged; nothing is booted from it then"
    )
