"""An archive's manifest and metadata as JSON: our own, and what ``checkpointctl`` reads.

warmboot.json        our manifest; the first member
config.dump          checkpointctl: container, image, runtime, times
spec.dump            checkpointctl: the OCI runtime specification, reduced
rootfs-diff.tar      what the container has changed in its own file system
deleted.files        what it has deleted there
checkpoint/…         CRIU's images, as Docker keeps them
sums.json            SHA-256 sums of all but the manifest; the last member
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from warmboot.codec import CodecError, decode
from warmboot.criu.archives.plain_tar import hostile
from warmboot.docker.facts import ContainerFacts
from warmboot.model.checkpoint import ArchiveManifest

MANIFEST = "warmboot.json"
CONFIG_DUMP, SPEC_DUMP = "config.dump", "spec.dump"
ROOTFS_DIFF, DELETED_FILES = "rootfs-diff.tar", "deleted.files"
CHECKPOINT_FOLDER = "checkpoint/"
ARCHIVE_SUMS = "sums.json"
MAX_NUMBER = 1 << 63


def manifest_json(manifest: ArchiveManifest) -> bytes:
    document = asdict(manifest)
    document["created_at"] = manifest.created_at.isoformat()
    document["files"] = dict(sorted(document["files"].items()))
    return json.dumps(document, indent=2).encode()


def parse_manifest(text: bytes) -> ArchiveManifest:
    """Parse a manifest; ``InvalidRequest`` unless ``manifest_json`` could have written it."""
    try:
        manifest = decode(ArchiveManifest, text, unknown="ignore")
    except CodecError as error:
        raise hostile(f"its manifest cannot be read: {error}") from error
    counts = (manifest.format, manifest.processes, manifest.tcp_connections)
    sizes = (one.size_bytes for one in manifest.files.values())
    if not all(0 <= number < MAX_NUMBER for number in (*counts, *sizes)):
        raise hostile("its manifest cannot be read: it has a number that can be none")
    return manifest


def parse_deleted(path: Path) -> list[str]:
    """The deleted files of an archive; names that are not UTF-8 as ``os.fsdecode`` gives them."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise hostile(f"its list of deleted files cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise hostile("its list of deleted files is none")
    return found


def parse_sums(text: bytes) -> dict[str, str]:
    """The sums of an archive's files by their names. ``InvalidRequest``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise hostile(f"its sums cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise hostile("its sums are none")
    return found


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
