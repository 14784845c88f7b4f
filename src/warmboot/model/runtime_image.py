"""A runtime image: kernel, initrd and root file system with Docker and the guest agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

GUEST_PROTOCOLS = frozenset({"5"})
"""The guest agents' protocol versions that this warmboot speaks."""

UNKNOWN_AGENT = "unknown"
"""What images of files in which no agent of ours was found say; they get the benefit of the doubt.
"""

DEFAULT_IMAGE = "default"
"""The name of the image that containers get when nobody names one; else they get the oldest."""

RENEWED_FROM = "renewed.from"
"""The label with the digest of the files that an image was registered with, before its guest agent
was renewed."""


def speaks_with(agent_version: str | None) -> bool:
    """Whether the guest agent of this protocol version is understood."""
    return agent_version in (None, UNKNOWN_AGENT, *GUEST_PROTOCOLS)


@dataclass(frozen=True, slots=True)
class FileSum:
    """One file of an image or a snapshot: bytes and lower-case hex SHA-256."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RuntimeImageManifest:
    """What stands in an image folder's ``manifest.json``.

    ``files`` has ``kernel``, ``rootfs`` (read-only ext4), ``disk`` (the empty writable ext4) and,
    where there is one, ``initrd``. ``digest`` is ``sha256:`` of the sorted file sums, so the same
    files are the same image. ``agent_version`` is the guest agent's protocol version.
    """

    digest: str
    files: Mapping[str, FileSum]
    cmdline: str
    agent_version: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """A registered runtime image. ``path`` is its folder on the host.

    ``damage`` is the error with which a file of it was found to be not what it was. Nothing is
    booted from it until it is repaired.
    """

    id: UUID
    name: str
    digest: str
    path: Path
    manifest: RuntimeImageManifest
    created_at: datetime
    damage: Mapping[str, Any] | None = None

    @property
    def kernel(self) -> Path:
        return self.path / "kernel"

    @property
    def initrd(self) -> Path | None:
        return self.path / "initrd" if "initrd" in self.manifest.files else None

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs.ext4"

    @property
    def disk(self) -> Path:
        return self.path / "disk.ext4"
