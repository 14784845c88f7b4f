"""``metadata.json`` of a snapshot folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from warmboot.model.errors import InvalidRequest, SnapshotDamaged
from warmboot.model.runtime_image import FileSum
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    METADATA_FILE,
    ROOTFS_FILE,
    STATE_FILE,
    TOKEN_FILE,
    HostRequirements,
    Moment,
    PackedMemory,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape
from warmboot.system.disks import allocated_bytes
from warmboot.system.file_stamps import UNFINISHED
from warmboot.system.files import sync

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    InvalidRequest,
)
"""What reading ``metadata.json`` raises when it is not what it was; the last for a shape."""


def parts_of(manifest: SnapshotManifest) -> tuple[str, ...]:
    """The files that a whole snapshot has, memory first."""
    both = (manifest.memory_file, STATE_FILE, ROOTFS_FILE)
    if manifest.moment is None:
        return (*both, DISK_FILE)
    token = (TOKEN_FILE,) if manifest.moment.claimed else ()
    return (*both, *token, *(manifest.moment.layers or (DISK_FILE,)))


def manifest_to_json(manifest: SnapshotManifest) -> dict[str, Any]:
    document = asdict(manifest)
    document["snapshot_id"] = str(manifest.snapshot_id)
    document["created_at"] = manifest.created_at.isoformat()
    document["compressed"] = manifest.compressed
    if manifest.moment is None:
        del document["moment"]
    else:
        for name in ("base", "disk_base"):
            path = getattr(manifest.moment, name)
            document["moment"][name] = None if path is None else str(path)
    return document


def load_manifest(path: Path) -> SnapshotManifest:
    """Read ``metadata.json``; ``SnapshotDamaged`` when it is missing or not understood."""
    try:
        document = json.loads((path / METADATA_FILE).read_text())
        return SnapshotManifest(
            snapshot_id=UUID(document["snapshot_id"]),
            image_digest=document["image_digest"],
            agent_version=document["agent_version"],
            shape=Shape(**document["shape"]),
            requires=HostRequirements(**document["requires"]),
            files={name: FileSum(**value) for name, value in document["files"].items()},
            created_at=datetime.fromisoformat(document["created_at"]),
            cmdline=document["cmdline"],
            uid=document["uid"],
            packed=_packed(document.get("packed")),
            moment=_moment(document.get("moment")),
        )
    except _UNREADABLE as error:
        raise damaged(path, f"{METADATA_FILE} cannot be read: {error}") from error


def write_manifest(path: Path, manifest: SnapshotManifest) -> None:
    """Put it in the place of the one that is there, or leave that one as it is."""
    temporary = path / f"{METADATA_FILE}{UNFINISHED}"
    temporary.write_text(json.dumps(manifest_to_json(manifest), indent=2, sort_keys=True) + "\n")
    sync(temporary)
    temporary.rename(path / METADATA_FILE)
    sync(path)


def memory_metadata(manifest: SnapshotManifest, path: Path) -> dict[str, object]:
    """The specification's sizes, in bytes, for a snapshot's ``metadata``.

    ``size_bytes``: all files on disk, without the image's in one of a VM in use.
    ``mem_size_bytes``: of RAM. ``mem_stored_bytes``: of it on disk. ``mem_nonzero_bytes``: of it
    not zero; known since it was compressed. Blocking.
    """
    packed, moment = manifest.packed, manifest.moment
    own = [name for name in manifest.files if moment is None or name != ROOTFS_FILE]
    memory_bytes = manifest.shape.memory_mib << 20
    return {
        "size_bytes": sum(allocated_bytes(path / name) for name in own),
        "mem_size_bytes": manifest.plain.size_bytes if moment is None else memory_bytes,
        "mem_stored_bytes": allocated_bytes(path / manifest.memory_file),
        "mem_nonzero_bytes": None if packed is None else packed.nonzero_bytes,
        "compressed": manifest.compressed,
        "compressed_size_bytes": (
            None if packed is None else manifest.files[manifest.frames_file].size_bytes
        ),
    }


def _moment(document: Any) -> Moment | None:
    if document is None:
        return None
    base, disk_base = (
        None if document[name] is None else Path(document[name]) for name in ("base", "disk_base")
    )
    layers = tuple(str(name) for name in document["layers"])
    return Moment(base, layers, disk_base, bool(document.get("claimed", True)))


def damaged(path: Path, details: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"the snapshot {path.name} is damaged",
        details=details,
        resolution=f"rebuild it: `warmboot snapshot rebuild {path.name}`",
    )


def _packed(document: Any) -> PackedMemory | None:
    if document is None:
        return None
    return PackedMemory(FileSum(**document["plain"]), int(document["nonzero_bytes"]))
