"""Containers whose image comes from an uploaded archive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
from tests.support.archives import packed
from tests.support.invariants import check
from tests.support.managers import Lab, Manager

from warmboot.manager.ports import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import InvalidRequest, NotFound


def docker_archive(name: str, command: list[str]) -> bytes:
    config = json.dumps({"config": {"Cmd": command}}).encode()
    entry = {"Config": "c.json", "RepoTags": [name], "Layers": []}
    return packed({"c.json": config, "manifest.json": json.dumps([entry]).encode()})


def oci_archive(name: str, command: list[str]) -> bytes:
    config = json.dumps({"config": {"Cmd": command}}).encode()
    config_digest = sha256(config).hexdigest()
    manifest = json.dumps({"config": {"digest": f"sha256:{config_digest}"}, "layers": []}).encode()
    digest = sha256(manifest).hexdigest()
    index = {
        "manifests": [
            {
                "digest": f"sha256:{digest}",
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        ]
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        f"blobs/sha256/{digest}": manifest,
        f"blobs/sha256/{config_digest}": config,
    }
    return packed(files)


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


@pytest.mark.parametrize(
    "content",
    [
        docker_archive("app:1", ["echo", "from the archive"]),
        oci_archive("app:1", ["echo", "from the archive"]),
    ],
    ids=["docker", "oci"],
)
async def test_an_image_comes_from_an_archive(manager: Manager, content: bytes) -> None:
    archive_id = await manager.services.archives.upload(chunks_of(content))
    assert archive_id == sha256(content).hexdigest()
    container = await manager.run(image="app:1", archive=archive_id, command=None)
    assert container.state is not ContainerState.FAILED, container.error
    await manager.wait("web", Until.EXITED)
    assert await manager.output("web") == b"from the archive\n"


async def test_an_archive_without_the_image_is_an_error_that_says_what_it_has(
    manager: Manager,
) -> None:
    two = [{"Config": "c.json", "RepoTags": ["a:1", "b:1"], "Layers": []}]
    content = packed({"c.json": b"{}", "manifest.json": json.dumps(two).encode()})
    archive_id = await manager.services.archives.upload(chunks_of(content))
    container = await manager.run(image="app:1", archive=archive_id)
    assert container.state is ContainerState.FAILED
    assert container.error is not None
    assert "a:1, b:1" in container.error["details"]


async def test_an_unknown_archive_is_refused(manager: Manager) -> None:
    for unknown in ("0" * 64, "../../etc/passwd", ""):
        with pytest.raises(NotFound):
            await manager.create(archive=unknown)
    assert await manager.containers.list(all_states=True) == ()


async def test_a_bad_archive_is_refused_and_leaves_nothing(manager: Manager) -> None:
    with pytest.raises(InvalidRequest):
        await manager.services.archives.upload(chunks_of(b"no archive" * 500))
    await check(manager.running)
    root = manager.lab.storage / "archives"
    assert list(root.iterdir()) == []


async def test_an_upload_that_breaks_off_is_swept_by_the_next_manager(place: Lab) -> None:
    async with place.manager() as manager:
        (place.storage / "archives").mkdir()
        (place.storage / "archives" / ".upload-dead").write_bytes(b"half")
    async with place.manager() as manager:
        await check(manager.running)
