"""A real registry (Debian's docker-registry), and a small client that pushes images to it.

    async with registry(folder) as port:
        push(Image.of(archive), port, "app", "1")      localhost:<port>/app:1

An ``Image`` is read from a ``docker save`` archive, and can also be written as an OCI image layout.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import shutil
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.support.eventually import eventually
from tests.support.ports import free_port

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_START_TIMEOUT_S = 60.0


@contextlib.asynccontextmanager
async def registry(folder: Path) -> AsyncIterator[int]:
    """A registry on a free port of 127.0.0.1, its storage in ``folder``; yields the port."""
    program = shutil.which("docker-registry")
    assert program is not None, "scripts/setup installs docker-registry"
    port = free_port()
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        "log: {level: warn}\n"
    )
    with (folder / "registry.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "serve", str(settings)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        await _until_it_answers(port, process, folder / "registry.log")
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until_it_answers(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            (await client.get(f"http://127.0.0.1:{port}/v2/")).raise_for_status()
            return True
        assert process.returncode is None, log.read_text()
        return False

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await eventually(answers, f"the registry answers; see {log}", _START_TIMEOUT_S)


@contextlib.contextmanager
def silent_registry() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never answers; yields it."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def registry_that_falls_silent() -> AsyncIterator[int]:
    """Says that it is a registry, and answers nothing else; yields its port of 127.0.0.1."""
    answer = b"HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\n"
    answer += b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    held: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        first = await reader.readline()
        if first.startswith(b"GET /v2/ "):
            writer.write(answer)
        if first.startswith(b"GET /v2/ ") or not first.startswith((b"GET ", b"HEAD ")):
            writer.close()  # also a TLS hello: then it is asked without

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        for writer in held:
            writer.close()
        server.close()


@dataclass(frozen=True)
class Image:
    """One image: its configuration, and its layers as they are stored compressed."""

    config: bytes
    layers: tuple[bytes, ...]

    @classmethod
    def of(cls, archive: bytes) -> Image:
        """The only image of a ``docker save`` archive."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:

            def read(name: str) -> bytes:
                member = tar.extractfile(name)
                assert member is not None
                return member.read()

            (entry,) = json.loads(read("manifest.json"))
            layers = tuple(gzip.compress(read(name), 1, mtime=0) for name in entry["Layers"])
            return cls(read(entry["Config"]), layers)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)

    def manifest(self) -> bytes:
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, self.config),
                "layers": [_descriptor(_LAYER, layer) for layer in self.layers],
            }
        ).encode()

    def oci_layout(self, reference: str | None) -> bytes:
        """A tar of an OCI image layout, with or without a name in it."""
        manifest = self.manifest()
        entry = _descriptor(_MANIFEST, manifest)
        if reference is not None:
            entry["annotations"] = {"org.opencontainers.image.ref.name": reference}
        files = {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
            **{f"blobs/sha256/{_sum(blob)}": blob for blob in (manifest, *self.blobs)},
        }
        return _tar(files)


def untagged(archive: bytes) -> bytes:
    """The same ``docker save`` archive, as it is saved by an image's id: without a name."""
    return renamed(archive, None)


def renamed(archive: bytes, name: str | None, folder: str = "") -> bytes:
    """The same ``docker save`` archive, with another name, and its files in ``folder``."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    manifest = json.loads(contents["manifest.json"])
    for entry in manifest:
        entry["RepoTags"] = None if name is None else [name]
    contents["manifest.json"] = json.dumps(manifest).encode()
    return _tar({folder + path: content for path, content in contents.items()})


async def push(image: Image, port: int, name: str, tag: str) -> None:
    """Push over the registry's HTTP API, version 2."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
    ) as client:
        for blob in image.blobs:
            begun = await client.post(f"/v2/{name}/blobs/uploads/")
            begun.raise_for_status()
            target = httpx.URL(begun.headers["Location"])
            stored = await client.put(
                target.copy_merge_params({"digest": f"sha256:{_sum(blob)}"}),
                content=blob,
                headers={"Content-Type": "application/octet-stream"},
            )
            stored.raise_for_status()
        answer = await client.put(
            f"/v2/{name}/manifests/{tag}",
            content=image.manifest(),
            headers={"Content-Type": _MANIFEST},
        )
        answer.raise_for_status()


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{_sum(blob)}", "size": len(blob)}


def _sum(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
