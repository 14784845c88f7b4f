"""Uploaded image archives: ``docker save`` tars and OCI image layouts, by their SHA-256.

Docker in the guest loads the former. An OCI layout becomes one by a ``manifest.json`` that names
the same blobs; it is added at upload, so what is stored can always be loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import secrets
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from warmboot.model.errors import DiskFull, InvalidRequest, NotFound

KEEP_S = 86_400.0
_CHUNK = 1 << 20
_MAX_METADATA_BYTES = 8 << 20
_ID = re.compile(r"[0-9a-f]{64}")
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"


class ArchiveFiles:
    """Archives below ``root``; one that was not used for a day is removed by ``collect``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def upload(self, chunks: AsyncIterator[bytes]) -> str:
        """Store an archive; its id. ``InvalidRequest`` if it is no image archive."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.root / f".upload-{secrets.token_hex(8)}"
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as file:
                async for chunk in chunks:
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_make_loadable, temporary)
            archive_id = digest.hexdigest()
            temporary.rename(self.root / archive_id)
        except OSError as error:
            raise DiskFull(
                "the archive could not be stored", details=str(error), resolution="free some space"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return archive_id

    def find(self, archive_id: str) -> Path:
        path = self.root / archive_id
        if not _ID.fullmatch(archive_id) or not path.is_file():
            raise NotFound(
                f"there is no archive {archive_id[:80]!r}",
                resolution="upload it again: it is kept for a day after its last use",
            )
        os.utime(path)
        return path

    async def read(self, path: Path) -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk

    async def collect(self, in_use: frozenset[str] = frozenset()) -> None:
        """Remove archives that nobody has used for a day, and uploads that broke off."""
        limit = time.time() - KEEP_S
        for path in self.root.glob("*") if self.root.exists() else ():
            if path.name not in in_use and path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
        for path in self.root.glob(".upload-*"):
            path.unlink(missing_ok=True)


def archive_references(path: Path) -> list[str]:
    """The image names in a stored archive."""
    with _opened(path) as archive:
        document = _json_member(archive, "manifest.json")
    return [name for entry in document or [] for name in entry.get("RepoTags") or []]


def _make_loadable(path: Path) -> None:
    with _opened(path) as archive:
        if _json_member(archive, "manifest.json") is not None:
            return
        index = _json_member(archive, "index.json")
        if index is None:
            raise _no_archive("it has neither manifest.json nor index.json")
        manifest = [_docker_entry(archive, entry) for entry in _image_entries(archive, index)]
        if not manifest:
            raise _no_archive("its index.json names no image for linux/amd64")
        compressed = not isinstance(archive.fileobj, io.BufferedReader)
    if compressed:
        raise _no_archive("a compressed OCI layout: unpack it first (`zcat` or `zstdcat`)")
    text = json.dumps(manifest).encode()
    member = tarfile.TarInfo("manifest.json")
    member.size = len(text)
    with tarfile.open(path, "a:") as archive:
        archive.addfile(member, io.BytesIO(text))


def _image_entries(archive: tarfile.TarFile, index: Any) -> list[dict[str, Any]]:
    """The manifests for this machine, of an index or of the indexes in it."""
    found: list[dict[str, Any]] = []
    for entry in index.get("manifests", []):
        platform = entry.get("platform", {})
        if platform.get("os", "linux") != "linux" or platform.get("architecture", "amd64") != (
            "amd64"
        ):
            continue
        document = _json_member(archive, _blob(entry["digest"]))
        if document is None:
            raise _no_archive(f"the blob {entry['digest']} is missing")
        if "manifests" in document:
            inner = _image_entries(archive, document)
            found += [{**one, "annotations": entry.get("annotations", {})} for one in inner]
        else:
            found.append({**document, "annotations": entry.get("annotations", {})})
    return found


def _docker_entry(archive: tarfile.TarFile, manifest: dict[str, Any]) -> dict[str, Any]:
    annotations = manifest.get("annotations") or {}
    name = annotations.get(_CONTAINERD_NAME) or annotations.get(_REF_NAME)
    return {
        "Config": _blob(manifest["config"]["digest"]),
        "RepoTags": [name] if name and ":" in name else None,
        "Layers": [_blob(layer["digest"]) for layer in manifest["layers"]],
    }


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _ID.fullmatch(value):
        raise _no_archive(f"{digest!r} is no digest")
    return f"blobs/sha256/{value}"


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except tarfile.TarError as error:
        raise _no_archive(str(error)) from error


def _json_member(archive: tarfile.TarFile, name: str) -> Any:
    try:
        member = archive.getmember(name)
    except KeyError:
        return None
    except (tarfile.TarError, EOFError) as error:
        raise _no_archive(str(error)) from error
    file = archive.extractfile(member)
    if file is None or member.size > _MAX_METADATA_BYTES:
        raise _no_archive(f"{name} is not what it should be")
    try:
        return json.loads(file.read())
    except ValueError as error:
        raise _no_archive(f"{name} is no JSON") from error


def _no_archive(details: str) -> InvalidRequest:
    return InvalidRequest(
        "this is no image archive",
        details=details,
        resolution="give the output of `docker save IMAGE` or an OCI image layout as a tar file",
    )
