"""Response models for the inside of containers."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from warmboot.api.schemas.responses import Out
from warmboot.model.tenants.inside import ChangeKind, FileKind


class ProcessTableOut(Out):
    titles: list[str] = Field(description="the columns, as ps calls them")
    rows: list[list[str]] = Field(description="a row for each process")


class ChangeOut(Out):
    path: str
    kind: ChangeKind = Field(description="what became of it")


class FileStatusOut(Out):
    name: str = Field(description="the last part of its path")
    kind: FileKind = Field(description="what it is")
    size_bytes: int
    mode: int = Field(description="its permissions: the last nine bits")
    modified_at: datetime = Field(description="when its content was changed last")
    link_target: str = Field(description="where a link leads; else empty")
