"""Images of the simulated Docker: names without content, pulled from registries that never are.

A record is one name of an image; several names may have the same id, and an image without a name
has one record, under its id.

``missing/…`` is a repository that does not exist, the tag ``missing`` one that it does not have;
``silent.invalid/…`` takes the request and says nothing, ``stalled.invalid`` falls silent on its
way, ``failing.invalid`` has its layer asked for again and again, ``slow.invalid`` gets there; every
other ``….invalid`` is a registry that does not answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import posixpath
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmboot.hypervisors.simulated.vmm.docker.events import EventLog
from warmboot.hypervisors.simulated.vmm.docker.http import HttpError
from warmboot.hypervisors.simulated.vmm.machine import Machine

if TYPE_CHECKING:
    import tarfile

Record = dict[str, Any]


def full_name(reference: str) -> str:
    """``redis`` and ``docker.io/library/redis`` are ``redis:latest``; a tag or digest stays."""
    for prefix in ("index.docker.io/", "docker.io/", "library/"):
        reference = reference.removeprefix(prefix)
    name = reference.rpartition("/")[2]
    return reference if ":" in name or "@" in name else f"{reference}:latest"


class Images:
    def __init__(self, machine: Machine, events: EventLog) -> None:
        self._machine = machine
        self._events = events
        self._records: dict[str, Record] = machine.ram["images"]

    def all(self) -> list[Record]:
        """One record of each image."""
        return list({record["id"]: record for record in self._records.values()}.values())

    def names(self, image_id: str) -> list[str]:
        """All that an image is called."""
        named = self._records.values()
        return [record["name"] for record in named if record["id"] == image_id and record["name"]]

    def find(self, reference: str) -> Record:
        """The record of an image, by its name or id; else 404, as Docker words it."""
        record = self._records.get(full_name(reference))
        if record is not None:
            return record
        for record in self._records.values():
            if reference and record["id"].removeprefix("sha256:").startswith(
                reference.removeprefix("sha256:")
            ):
                return record
        raise HttpError(404, f"No such image: {full_name(reference)}")

    def remove(self, reference: str) -> tuple[list[str], str | None]:
        """The names that are gone, and the id if the image is, too."""
        record = self.find(reference)
        image_id, names = record["id"], self.names(record["id"])
        by_name = full_name(reference) in self._records
        if len(names) > 1 and not by_name:
            raise HttpError(
                409,
                f"conflict: unable to delete {image_id[7:19]} (must be forced) - image is "
                "referenced in multiple repositories",
            )
        del self._records[record["name"] or image_id]
        self._events.emit("image", "untag", image_id, {"name": record["name"]})
        gone = [record["name"]] if record["name"] else []
        if len(names) > 1:
            return gone, None
        self._events.emit("image", "delete", image_id, {"name": record["name"]})
        return gone, image_id

    def tag(self, reference: str, repository: str, tag: str) -> None:
        """Another name for an image; the name may have been another image's."""
        if not repository or repository != repository.lower():
            raise HttpError(400, f"invalid reference format: {repository!r}")
        record = self.find(reference)
        name = f"{repository}:{tag or 'latest'}"
        self._put(record["id"], name, record["config"])
        self._events.emit("image", "tag", record["id"], {"name": name})

    async def pull(self, repository: str, tag: str) -> AsyncIterator[bytes]:
        """Check that it can be pulled, then return the progress as JSON lines."""
        reference = full_name(repository)
        if tag:
            reference = f"{repository}{'@' if ':' in tag else ':'}{tag}"
        host = repository.partition("/")[0]
        if host == "silent.invalid":
            await asyncio.Event().wait()
        if host in ("stalled.invalid", "failing.invalid", "slow.invalid"):
            return self._troubled(reference, host.partition(".")[0])
        if host.partition(":")[0].endswith(".invalid"):
            raise HttpError(
                500,
                f'Get "https://{host}/v2/": dial tcp: lookup {host.partition(":")[0]}: '
                "no such host",
            )
        if host == "missing":
            raise HttpError(
                404,
                f"pull access denied for {repository}, repository does not exist or may require "
                "'docker login': denied: requested access to the resource is denied",
            )
        if reference.endswith(":missing"):
            raise HttpError(
                404, f"manifest for {reference} not found: manifest unknown: manifest unknown"
            )
        return self._progress(reference)

    async def _progress(self, reference: str) -> AsyncIterator[bytes]:
        tag = reference.rpartition(":")[2]
        yield _line(status=f"Pulling from {reference}", id=tag)
        layer = hashlib.sha256(reference.encode()).hexdigest()[:12]
        total = 1_000_000
        yield _line(status="Pulling fs layer", progressDetail={}, id=layer)
        clock = self._machine.clock
        for part in (1, 2):
            await clock.sleep_until(clock.now() + self._machine.config.pull_s / 2)
            detail = {"current": total * part // 2, "total": total}
            yield _line(status="Downloading", progressDetail=detail, id=layer)
        yield _line(status="Pull complete", progressDetail={}, id=layer)
        record = self.add(reference, {"Cmd": ["/simulated"], "Env": ["PATH=/usr/bin:/bin"]})
        self._events.emit("image", "pull", reference, {"name": reference})
        yield _line(status=f"Digest: {record['id']}")
        yield _line(status=f"Status: Downloaded newer image for {reference}")

    async def _troubled(self, reference: str, how: str) -> AsyncIterator[bytes]:
        """As Docker tells it: it falls silent, it tries a layer anew, or gets on slowly."""
        clock, layer = self._machine.clock, "a" * 12

        async def pause() -> None:
            await clock.sleep_until(clock.now() + self._machine.config.pull_s)

        yield _line(status="Pulling fs layer", progressDetail={}, id=layer)
        if how == "stalled":
            yield _line(status="Downloading", progressDetail={"current": 1, "total": 9}, id=layer)
            await asyncio.Event().wait()
        if how == "failing":
            for left_s in (5, 4, 3, 2, 1, 10, 9):
                await pause()
                yield _line(status=f"Retrying in {left_s} seconds", progressDetail={}, id=layer)
            await asyncio.Event().wait()
        for current in range(1, 10):
            await pause()
            detail = {"current": current, "total": 9}
            yield _line(status="Downloading", progressDetail=detail, id=layer)
        self.add(reference, {"Cmd": ["/simulated"], "Env": ["PATH=/usr/bin:/bin"]})

    def add(self, reference: str, config: Record) -> Record:
        digest = hashlib.sha256(reference.encode()).hexdigest()
        return self._put(f"sha256:{digest}", full_name(reference), config)

    def _put(self, image_id: str, name: str, config: Record) -> Record:
        """``name`` is of that image from now on; one that has lost its last name keeps its id."""
        record: Record = {"id": image_id, "name": name, "config": config}
        before = self._records.pop(name, None)
        if name:
            self._records.pop(image_id, None)
        if name or not self.names(image_id):
            self._records[name or image_id] = record
        if before is not None and not self.names(before["id"]):
            self._records[before["id"]] = before | {"name": ""}
        return record

    async def load(self, archive: Path) -> AsyncIterator[bytes]:
        """Register the images of a ``docker save`` or OCI archive; HTTP 400 if it is neither."""
        told = []
        for image_id, name, config in await asyncio.to_thread(_read_archive, archive):
            named = full_name(name) if name else ""
            self._put(image_id, named, config)
            self._events.emit("image", "load", image_id, {"name": named or image_id})
            told.append(f"Loaded image: {named}" if named else f"Loaded image ID: {image_id}")
        return _lines([{"stream": f"{line}\n"} for line in told])


async def _lines(values: list[Record]) -> AsyncIterator[bytes]:
    for value in values:
        yield _line(**value)


def _line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\r\n"


Found = tuple[str, str, Record]
"""An image's id (its configuration's sum), one name of it or none, and the configuration."""


def _read_archive(path: Path) -> list[Found]:
    import tarfile  # seldom needed, and slow to load

    try:
        with tarfile.open(path) as archive:
            members = {posixpath.normpath(member.name): member for member in archive}
            if "manifest.json" in members:
                return list(_docker_images(archive, members))
            if "index.json" in members:
                return list(_oci_images(archive, members))
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise HttpError(400, f"archive/tar: invalid tar header: {error}") from error
    raise HttpError(400, "invalid archive: it has neither manifest.json nor index.json")


Members = Mapping[str, "tarfile.TarInfo"]
"""What is in an archive, by its name without a ``./`` before it."""


def _read(archive: tarfile.TarFile, members: Members, name: str) -> bytes:
    file = archive.extractfile(members[posixpath.normpath(name)])
    return file.read() if file is not None else b"{}"


def _docker_images(archive: tarfile.TarFile, members: Members) -> Iterator[Found]:
    for entry in json.loads(_read(archive, members, "manifest.json")):
        config = _read(archive, members, entry["Config"])
        yield from _named(config, entry.get("RepoTags") or [""])


def _oci_images(archive: tarfile.TarFile, members: Members) -> Iterator[Found]:
    for entry in json.loads(_read(archive, members, "index.json"))["manifests"]:
        notes = entry.get("annotations") or {}
        name = notes.get("io.containerd.image.name") or notes.get(
            "org.opencontainers.image.ref.name", ""
        )
        manifest = json.loads(_read(archive, members, _blob(entry["digest"])))
        yield from _named(_read(archive, members, _blob(manifest["config"]["digest"])), [name])


def _named(content: bytes, names: list[str]) -> Iterator[Found]:
    image_id = f"sha256:{hashlib.sha256(content).hexdigest()}"
    config = json.loads(content).get("config") or {}
    for name in names:
        yield image_id, name, config


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
