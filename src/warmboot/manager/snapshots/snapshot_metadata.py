"""The ``metadata`` of a snapshot, as specified, written when its build is complete."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from warmboot.model.errors import HostError
from warmboot.model.runtime_snapshot import (
    MEMORY_FILE,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotManifest,
    requirements_of,
)
from warmboot.system.disks import allocated_bytes


def known_cold_boot_s(old: RuntimeSnapshot | None, here: HostRequirements) -> float | None:
    """What a build in the background passes on, as its own boot measures what others left to it.

    ``None`` where nothing was measured for the one that it replaces, or on another host than this.
    """
    if old is None or requirements_of(old) != here:
        return None
    cold_boot_s: float | None = old.metadata.get("cold_boot_s")
    return cold_boot_s


def snapshot_metadata(manifest: SnapshotManifest, path: Path) -> dict[str, object]:
    """Sizes in bytes, and what the snapshot needs of a host."""
    if not manifest.files:
        raise HostError("a snapshot was published without files")
    return {
        "size_bytes": sum(allocated_bytes(path / name) for name in manifest.files),
        "mem_size_bytes": manifest.files[MEMORY_FILE].size_bytes,
        "mem_stored_bytes": allocated_bytes(path / MEMORY_FILE),
        "compressed": False,
        "compressed_size_bytes": None,
        "agent_version": manifest.agent_version,
        "requires": asdict(manifest.requires),
    }
