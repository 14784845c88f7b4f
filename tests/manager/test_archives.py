"""Containers whose image comes from an uploaded archive."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from tests.support.archives import chunks_of, packed
from tests.support.invariants import check
from tests.support.managers import Lab, Manager
from tests.support.registry import Image, untagged

from warmboot.docker.tiny_image import image_archive
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import ImageNotFound, InvalidRequest, NotFound


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


@pytest.mark.parametrize("kind", ["docker-save-untagged", "oci", "oci-untagged"])
async def test_the_only_image_of_an_archive_has_the_name_that_is_asked_for(
    manager: Manager, kind: str
) -> None:
    saved = image_archive("app:1", {"app": b"x"}, {}, ["echo", "from the archive"])
    content = {
        "docker-save-untagged": lambda: untagged(saved),
        "oci": lambda: Image.of(saved).oci_layout("app:1"),
        "oci-untagged": lambda: Image.of(saved).oci_layout(None),
    }[kind]()
    archive_id = await manager.services.archives.upload(chunks_of(content))
    for name in ("app:1", "other/name:2"):
        container = await manager.run("only", image=name, archive=archive_id, command=None)
        assert container.state is not ContainerState.FAILED, container.error
        await manager.wait("only", Until.EXITED)
        assert await manager.output("only") == b"from the archive\n"
        await manager.containers.delete("only")


async def test_an_image_that_an_archive_lacks_is_refused_with_what_it_has(manager: Manager) -> None:
    two = [{"Config": f"{name}.json", "RepoTags": [f"{name}:1"], "Layers": []} for name in "ab"]
    configs = {f"{name}.json": json.dumps({"config": {"Cmd": [name]}}).encode() for name in "ab"}
    content = packed({**configs, "manifest.json": json.dumps(two).encode()})
    archive_id = await manager.services.archives.upload(chunks_of(content))
    with pytest.raises(ImageNotFound) as refused:
        await manager.create(image="app:1", archive=archive_id)
    assert "a:1, b:1" in (refused.value.details or "")


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("name", ["a:1", "docker.io/library/a:1"])
async def test_an_image_of_several_is_found_however_it_is_packed_and_called(
    manager: Manager, prefix: str, name: str
) -> None:
    entries = [{"Config": f"{n}.json", "RepoTags": [f"{n}:1"], "Layers": []} for n in "ab"]
    files = {f"{n}.json": json.dumps({"config": {"Cmd": ["echo", n]}}).encode() for n in "ab"}
    files["manifest.json"] = json.dumps(entries).encode()
    content = packed({prefix + path: data for path, data in files.items()})
    archive_id = await manager.services.archives.upload(chunks_of(content))
    container = await manager.run(image=name, archive=archive_id, command=None)
    assert container.state is not ContainerState.FAILED, container.error
    await manager.wait("web", Until.EXITED)
    assert await manager.output("web") == b"a\n"


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
