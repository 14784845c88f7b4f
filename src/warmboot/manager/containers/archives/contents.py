"""What is in an image archive: ``docker save`` tars, and OCI layouts, which are made loadable.

Docker loads the former. An OCI layout becomes one by a ``manifest.json`` that names the same blobs.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmboot.docker.references import with_tag
from warmboot.model.conventions.image_references import is_reference
from warmboot.model.errors import ImageNotFound, InvalidRequest

_MAX_METADATA_BYTES = 8 << 20
_MAX_DEPTH = 4
_MAX_LINKS = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading metadata raises that is not as it should be."""


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """``config`` is where its configuration is in the archive, ``names`` may be none."""

    config: str
    names: tuple[str, ...]


def make_loadable(path: Path) -> None:
    """``InvalidRequest`` if the tar has no images that Docker can load."""
    try:
        manifest = _lacking_manifest(path)
    except tarfile.ReadError as error:
        raise no_archive("it is no tar file, or a damaged one") from error
    except (tarfile.TarError, EOFError, *_MALFORMED) as error:
        raise no_archive(damage(error)) from error
    if manifest is None:
        return
    text = json.dumps(manifest).encode()
    member = tarfile.TarInfo("manifest.json")
    member.size = len(text)
    with tarfile.open(path, "a:") as archive:
        archive.addfile(member, io.BytesIO(text))


def images_of(path: Path) -> tuple[ArchivedImage, ...]:
    """The images of an archive that was made loadable. Earlier versions stored archives compressed,
    too.

    ``InvalidRequest`` if it has been damaged since.
    """
    try:
        with tarfile.open(path) as archive:
            manifest = _Members(archive).json("manifest.json")
        return tuple(
            ArchivedImage(entry["Config"], tuple(entry.get("RepoTags") or ())) for entry in manifest
        )
    except (tarfile.TarError, EOFError, *_MALFORMED) as error:
        raise no_archive(damage(error)) from error


def check_has(images: tuple[ArchivedImage, ...], reference: str) -> None:
    """Whether one of them is meant by ``reference``: the only one is, whatever its name."""
    if "@" in reference:
        raise InvalidRequest(
            "an image of an archive cannot be named by a digest",
            details="the digest is a registry's, and an archive does not have it",
            resolution=f"name it by a tag: {reference.partition('@')[0]}",
        )
    names = [name for image in images for name in image.names]
    if _familiar(reference) in map(_familiar, names) or len({one.config for one in images}) == 1:
        return
    raise ImageNotFound(
        f"the archive has no image {reference}",
        details=f"it has: {', '.join(names) or 'several without a name'}",
        resolution="name one of these"
        if names
        else "name them with `docker tag`, and save them again by their names",
    )


def _familiar(reference: str) -> str:
    """As Docker shows it: without the registry that it asks when none is named."""
    for prefix in ("index.docker.io/", "docker.io/", "library/"):
        reference = reference.removeprefix(prefix)
    return with_tag(reference)


def _lacking_manifest(path: Path) -> list[dict[str, Any]] | None:
    """The ``manifest.json`` that it lacks; ``None`` if it has one."""
    with tarfile.open(path, "r:") as archive:
        members = _Members(archive)
        known = members.json("manifest.json")
        if isinstance(known, list) and known:
            for entry in known:
                members.check_image(entry)
            return None
        index = members.json("index.json")
        if known is not None or index is None:
            raise no_archive("it has neither a manifest.json nor an index.json of images")
        manifest = [_docker_entry(entry) for entry in _image_entries(members, index, _MAX_DEPTH)]
        if not manifest:
            raise no_archive("its index.json names no image for linux/amd64")
        for entry in manifest:
            members.check_image(entry)
        return manifest


def _image_entries(members: _Members, index: Any, depth: int) -> list[dict[str, Any]]:
    """The manifests for this machine, of an index or of the indexes in it."""
    if not depth:
        raise no_archive("its indexes lead from one to the next without end")
    found: list[dict[str, Any]] = []
    for entry in index.get("manifests", []):
        platform = entry.get("platform", {})
        if platform.get("os", "linux") != "linux" or platform.get("architecture", "amd64") != (
            "amd64"
        ):
            continue
        document = members.json(_blob(entry["digest"]))
        if document is None:
            raise no_archive(f"the blob {entry['digest']} is missing")
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
    if algorithm != "sha256" or not _DIGEST.fullmatch(value):
        raise no_archive(f"{digest!r} is no digest")
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
            raise no_archive(f"{name} is not what it should be")
        try:
            return json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise no_archive(f"{name} is no JSON") from error

    def check_image(self, entry: dict[str, Any]) -> None:
        """Refuse one that Docker cannot load: an ``entry`` of ``manifest.json``."""
        self.check_files([entry["Config"], *entry["Layers"]])
        if not isinstance(self.json(posixpath.normpath(entry["Config"])), dict):
            raise no_archive(f"the configuration of an image, {entry['Config']!r}, is no object")
        for name in entry.get("RepoTags") or ():
            if not is_reference(name):
                raise no_archive(f"{name!r} is no name of an image")

    def check_files(self, names: list[str]) -> None:
        """Refuse an archive that names what it does not have; older ones have links to layers."""
        for name in names:
            path, links = posixpath.normpath(name), 0
            while (member := self._by_name.get(path)) is not None and not member.isfile():
                # A hard link's target is a name of the archive, a symbolic one's is relative.
                folder = posixpath.dirname(path) if member.issym() else ""
                path, links = posixpath.normpath(posixpath.join(folder, member.linkname)), links + 1
                if links > _MAX_LINKS or not (member.issym() or member.islnk()):
                    member = None
                    break
            if member is None:
                raise no_archive(f"its manifest names {name!r}, which it does not have")


def damage(error: Exception) -> str:
    if isinstance(error, _MALFORMED):  # Python's words are of no use to anybody
        return "it is damaged: what it says of its images is not as it should be"
    return f"it is damaged: {type(error).__name__.removesuffix('Error')} {error}"


def no_archive(details: str) -> InvalidRequest:
    return InvalidRequest(
        "this is not an image archive",
        details=details,
        resolution="give the output of `docker save IMAGE` or an OCI image layout as a tar file",
    )
