"""Uploaded image archives: ``docker save`` tars and OCI image layouts, by their SHA-256.

Docker in the guest loads the former. An OCI layout becomes one by a ``manifest.json`` that names
the same blobs; it is added at upload, so what is stored can always be loaded.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import lzma
import os
import posixpath
import re
import secrets
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from warmboot.manager.core.uploads import Uploads
from warmboot.model.errors import InvalidRequest, NotFound
from warmboot.system.disks import os_error

_CHUNK = 1 << 20
_MAX_METADATA_BYTES = 8 << 20
_MAX_DEPTH = 4
_ID = re.compile(r"[0-9a-f]{64}")
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_DAMAGED = (
    *(tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
)
"""What reading an archive raises that is truncated, damaged, or no archive of images at all."""


class ArchiveFiles:
    """Archives below ``root``. Those that no container needs are collected after a day."""

    def __init__(self, root: Path, uploads: Uploads) -> None:
        self.root = root
        self._uploads = uploads

    async def upload(self, chunks: AsyncIterator[bytes], size_bytes: int | None = None) -> str:
        """Store an archive; its id. ``InvalidRequest`` if it is no image archive, ``DiskFull``."""
        temporary = self.root / f".upload-{secrets.token_hex(8)}"
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            archive_id = await self._uploads.receive(temporary, chunks, size_bytes)
            await asyncio.to_thread(_make_loadable, temporary)
            temporary.rename(self.root / archive_id)
        except OSError as error:
            raise os_error(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return archive_id

    def find(self, archive_id: str) -> Path:
        path = self.root / archive_id
        if not _ID.fullmatch(archive_id) or not path.is_file():
            raise NotFound(
                f"there is no archive {archive_id[:80]!r}",
                resolution="upload it again: without a container it is kept for a day",
            )
        os.utime(path)
        return path

    async def read(self, path: Path) -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk


def _make_loadable(path: Path) -> None:
    try:
        manifest, compressed = _understood(path)
    except _DAMAGED as error:
        raise _no_archive(_damage(error)) from error
    if manifest is None:
        return
    if compressed:
        raise _no_archive("a compressed OCI layout: unpack it first (`zcat` or `zstdcat`)")
    text = json.dumps(manifest).encode()
    member = tarfile.TarInfo("manifest.json")
    member.size = len(text)
    with tarfile.open(path, "a:") as archive:
        archive.addfile(member, io.BytesIO(text))


def _understood(path: Path) -> tuple[list[dict[str, Any]] | None, bool]:
    """The ``manifest.json`` that it lacks (``None``: it has one), and whether it is compressed."""
    with tarfile.open(path) as archive:
        members = _Members(archive)
        known = members.json("manifest.json")
        if isinstance(known, list) and known:
            return None, False
        index = members.json("index.json")
        if known is not None or index is None:
            raise _no_archive("it has neither a manifest.json nor an index.json of images")
        manifest = [_docker_entry(entry) for entry in _image_entries(members, index, _MAX_DEPTH)]
        if not manifest:
            raise _no_archive("its index.json names no image for linux/amd64")
        return manifest, not isinstance(archive.fileobj, io.BufferedReader)


def _image_entries(members: _Members, index: Any, depth: int) -> list[dict[str, Any]]:
    """The manifests for this machine, of an index or of the indexes in it."""
    if not depth:
        raise _no_archive("its indexes lead from one to the next without end")
    found: list[dict[str, Any]] = []
    for entry in index.get("manifests", []):
        platform = entry.get("platform", {})
        if platform.get("os", "linux") != "linux" or platform.get("architecture", "amd64") != (
            "amd64"
        ):
            continue
        document = members.json(_blob(entry["digest"]))
        if document is None:
            raise _no_archive(f"the blob {entry['digest']} is missing")
        if "manifests" in document:
            inner = _image_entries(members, document, depth - 1)
            found += [{**one, "annotations": entry.get("annotations", {})} for one in inner]
        else:
            found.append({**document, "annotations": entry.get("annotations", {})})
    return found


def _docker_entry(manifest: dict[str, Any]) -> dict[str, Any]:
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


class _Members:
    """What is in an archive, whether it was packed as ``name`` or as ``./name``."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._by_name = {posixpath.normpath(member.name): member for member in archive}

    def json(self, name: str) -> Any:
        """A JSON file's content; ``None`` if there is no such file."""
        member = self._by_name.get(name)
        if member is None:
            return None
        file = self._archive.extractfile(member) if member.isfile() else None
        if file is None or member.size > _MAX_METADATA_BYTES:
            raise _no_archive(f"{name} is not what it should be")
        try:
            return json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise _no_archive(f"{name} is no JSON") from error


def _damage(error: Exception) -> str:
    if isinstance(error, tarfile.ReadError):  # what each of its decompressors said
        return "it is no tar file, or a damaged one"
    return f"it is damaged: {type(error).__name__.removesuffix('Error')} {error}"


def _no_archive(details: str) -> InvalidRequest:
    return InvalidRequest(
        "this is not an image archive",
        details=details,
        resolution="give the output of `docker save IMAGE` or an OCI image layout as a tar file",
    )
