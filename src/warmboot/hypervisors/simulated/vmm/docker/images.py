"""Images of the simulated Docker: names without content, pulled from registries that never are.

``missing/…`` is a repository that does not exist, the tag ``missing`` one that it does not have;
``silent.invalid/…`` takes the request and says nothing, ``stalled.invalid`` falls silent on its
way, ``failing.invalid`` has its layer asked for again and again, ``slow.invalid`` gets there; every
other ``….invalid`` is a registry that does not answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmboot.hypervisors.simulated.vmm.docker.events import EventLog
from warmboot.hypervisors.simulated.vmm.docker.http import HttpError
from warmboot.hypervisors.simulated.vmm.machine import Machine

if TYPE_CHECKING:
    import tarfile

Record = dict[str, Any]


def full_name(reference: str) -> str:
    """``redis`` is ``redis:latest``; a tag or digest stays."""
    name = reference.rpartition("/")[2]
    return reference if ":" in name or "@" in name else f"{reference}:latest"


class Images:
    def __init__(self, machine: Machine, events: EventLog) -> None:
        self._machine = machine
        self._events = events
        self._records: dict[str, Record] = machine.ram["images"]

    def list(self) -> list[Record]:
        return list(self._records.values())

    def find(self, reference: str) -> Record:
        """By name or id; 404 as Docker words it."""
        record = self._records.get(full_name(reference))
        if record is not None:
            return record
        for record in self._records.values():
            if reference and record["id"].removeprefix("sha256:").startswith(
                reference.removeprefix("sha256:")
            ):
                return record
        raise HttpError(404, f"No such image: {full_name(reference)}")

    def remove(self, reference: str) -> Record:
        record = self.find(reference)
        del self._records[record["name"]]
        self._events.emit("image", "delete", record["id"], {"name": record["name"]})
        return record

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
        name = full_name(reference)
        record: Record = {"id": f"sha256:{digest}", "name": name, "config": config}
        self._records[name] = record
        return record

    async def load(self, archive: Path) -> AsyncIterator[bytes]:
        """Register the images of a ``docker save`` or OCI archive; HTTP 400 if it is neither."""
        found = await asyncio.to_thread(_read_archive, archive)
        for reference, config in found:
            self.add(reference, config)
            self._events.emit("image", "load", reference, {"name": reference})
        return _lines([{"stream": f"Loaded image: {name}\n"} for name, _ in found])


async def _lines(values: list[Record]) -> AsyncIterator[bytes]:
    for value in values:
        yield _line(**value)


def _line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\r\n"


def _read_archive(path: Path) -> list[tuple[str, Record]]:
    import tarfile  # seldom needed, and slow to load

    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            if "manifest.json" in names:
                return _read_docker_archive(archive)
            if "index.json" in names:
                return _read_oci_archive(archive)
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise HttpError(400, f"archive/tar: invalid tar header: {error}") from error
    raise HttpError(400, "invalid archive: it has neither manifest.json nor index.json")


def _read_json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    return json.load(file) if file is not None else {}


def _read_docker_archive(archive: tarfile.TarFile) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    for entry in _read_json(archive, "manifest.json"):
        config = _read_json(archive, entry["Config"]).get("config") or {}
        for name in entry.get("RepoTags") or [entry["Config"].partition(".")[0]]:
            found.append((name, config))
    return found


def _read_oci_archive(archive: tarfile.TarFile) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    for entry in _read_json(archive, "index.json")["manifests"]:
        notes = entry.get("annotations") or {}
        name = notes.get("io.containerd.image.name") or notes.get(
            "org.opencontainers.image.ref.name", entry["digest"]
        )
        manifest = _read_json(archive, _blob(entry["digest"]))
        config = _read_json(archive, _blob(manifest["config"]["digest"])).get("config") or {}
        found.append((name, config))
    return found


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
