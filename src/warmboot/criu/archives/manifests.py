"""An archive's manifest and metadata as JSON: our own, and what ``checkpointctl`` reads.

warmboot.json        our manifest; the first member
config.dump          checkpointctl: container, image, runtime, times
spec.dump            checkpointctl: the OCI runtime specification, reduced
rootfs-diff.tar      what the container has changed in its own file system
deleted.files        what it has deleted there
checkpoint/…         CRIU's images, as Docker keeps them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from warmboot.criu.archives.plain_tar import hostile
from warmboot.docker.facts import ContainerFacts
from warmboot.model.checkpoint import ArchiveManifest, Versions
from warmboot.model.runtime_image import FileSum

MANIFEST = "warmboot.json"
CONFIG_DUMP, SPEC_DUMP = "config.dump", "spec.dump"
ROOTFS_DIFF, DELETED_FILES = "rootfs-diff.tar", "deleted.files"
CHECKPOINT_FOLDER = "checkpoint/"
MAX_NUMBER = 1 << 63


def manifest_json(manifest: ArchiveManifest) -> bytes:
    versions = manifest.versions
    return json.dumps(
        {
            "format": manifest.format,
            "name": manifest.name,
            "created_at": manifest.created_at.isoformat(),
            "image": manifest.image,
            "image_digest": manifest.image_digest,
            "versions": {
                "engine": versions.engine,
                "criu": versions.criu,
                "kernel": versions.kernel,
                "architecture": versions.architecture,
            },
            "network": manifest.network,
            "processes": manifest.processes,
            "tcp_connections": manifest.tcp_connections,
            "mounts": list(manifest.mounts),
            "files": {
                path: {"size_bytes": one.size_bytes, "sha256": one.sha256}
                for path, one in sorted(manifest.files.items())
            },
        },
        indent=2,
    ).encode()


def parse_manifest(text: bytes) -> ArchiveManifest:
    """``InvalidRequest`` when it is not what ``manifest_json`` writes."""
    try:
        found: Mapping[str, Any] = json.loads(text)
        versions = found["versions"]
        return ArchiveManifest(
            format=_number(found["format"]),
            name=_text(found["name"]),
            created_at=datetime.fromisoformat(found["created_at"]),
            image=_text(found["image"]),
            image_digest=_text(found["image_digest"]),
            versions=Versions(
                engine=_text(versions["engine"]),
                criu=_text(versions["criu"]),
                kernel=_text(versions["kernel"]),
                architecture=_text(versions["architecture"]),
            ),
            network=_text(found["network"]),
            processes=_number(found["processes"]),
            tcp_connections=_number(found["tcp_connections"]),
            mounts=tuple(_text(place) for place in found["mounts"]),
            files={
                _text(path): FileSum(_number(one["size_bytes"]), _text(one["sha256"]))
                for path, one in found["files"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise hostile(f"its manifest cannot be read: {type(error).__name__} {error}") from error


def parse_deleted(path: Path) -> list[str]:
    """The deleted files of an archive; names that are not UTF-8 as ``os.fsdecode`` gives them."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise hostile(f"its list of deleted files cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise hostile("its list of deleted files is none")
    return found


def _text(value: object) -> str:
    """Also refuses what UTF-8 cannot carry, as half of a surrogate pair."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise ValueError(f"{value!r} is no number that can be here")
    return value


def config_dump(container: ContainerFacts, description: Mapping[str, Any], at: datetime) -> bytes:
    return json.dumps(
        {
            "id": container.id,
            "name": container.name,
            "rootfsImage": container.image_digest.removeprefix("sha256:"),
            "rootfsImageName": container.image,
            "runtime": str(description["HostConfig"].get("Runtime") or "runc"),
            "createdTime": str(description["Created"]),
            "checkpointedTime": at.isoformat(),
        },
        indent=2,
    ).encode()


def spec_dump(container: ContainerFacts, description: Mapping[str, Any]) -> bytes:
    """What ``checkpointctl`` shows of an OCI specification.

    ``io.container.manager`` is ``libpod``: it takes only engines that it knows, and ours is laid
    out as Podman's is.
    """
    config = description["Config"]
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": container.tty,
                "args": [str(description["Path"]), *map(str, description["Args"] or [])],
                "env": list(config.get("Env") or []),
                "cwd": str(config.get("WorkingDir") or "/"),
            },
            "root": {"path": "rootfs"},
            "hostname": str(config.get("Hostname") or ""),
            "mounts": [
                {
                    "destination": str(mount["Destination"]),
                    "source": str(mount["Source"]),
                    "type": str(mount["Type"]),
                }
                for mount in description.get("Mounts") or []
            ],
            "annotations": {"io.container.manager": "libpod", "dev.warmboot.engine": "docker"},
            "linux": {},
        },
        indent=2,
    ).encode()
