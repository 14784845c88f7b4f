"""Uploaded image archives: understood, made loadable, refused in plain words, kept for a day."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.room import Disk

from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.core.uploads import Uploads
from warmboot.model.errors import ImageNotFound, InvalidRequest, NotFound


@pytest.fixture
def archives(tmp_path: Path) -> ArchiveFiles:
    return ArchiveFiles(tmp_path / "archives", Uploads(Disk(tmp_path)))


def packed(files: dict[str, bytes], prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def docker(*images: tuple[str, ...], layers: tuple[str, ...] = (), **more: bytes) -> bytes:
    """As `docker save` writes it; ``images`` are their names."""
    files = {f"{number}.json": b"{}" for number, _ in enumerate(images)}
    manifest = [
        {"Config": f"{number}.json", "RepoTags": list(names) or None, "Layers": list(layers)}
        for number, names in enumerate(images)
    ]
    return packed(files | more | {"manifest.json": json.dumps(manifest).encode()})


DOCKER = docker(("a:1",))


def blob(value: object) -> tuple[str, bytes]:
    content = json.dumps(value).encode()
    return f"sha256:{sha256(content).hexdigest()}", content


def stored_at(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def oci(*, nested: bool = False, prefix: str = "", name: str = "app:1", **platform: str) -> bytes:
    config, config_bytes = blob({"config": {}})
    layer, layer_bytes = blob("a layer")
    manifest, manifest_bytes = blob({"config": {"digest": config}, "layers": [{"digest": layer}]})
    annotations = {"org.opencontainers.image.ref.name": name}
    entry: dict[str, Any] = {"digest": manifest, "annotations": annotations}
    if platform:
        entry["platform"] = platform
    files = {
        stored_at(config): config_bytes,
        stored_at(layer): layer_bytes,
        stored_at(manifest): manifest_bytes,
    }
    if nested:
        other = {"digest": "sha256:" + "0" * 64, "platform": {"architecture": "arm64"}}
        inner, inner_bytes = blob({"manifests": [other, {"digest": manifest}]})
        files[stored_at(inner)] = inner_bytes
        entry = {"digest": inner, "annotations": annotations}
    files["index.json"] = json.dumps({"manifests": [entry]}).encode()
    return packed(files, prefix)


async def stream(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 700):
        yield content[start : start + 700]


async def loadable(archives: ArchiveFiles, content: bytes) -> Any:
    """The ``manifest.json`` that Docker will read of what was stored."""
    archive_id = await archives.upload(stream(content))
    assert archive_id == sha256(content).hexdigest()
    with tarfile.open(archives.find(archive_id)) as archive:
        member = archive.extractfile("manifest.json")
        assert member is not None
        return json.loads(member.read())


async def test_a_docker_archive_is_kept_as_it_is(archives: ArchiveFiles) -> None:
    archive_id = await archives.upload(stream(DOCKER))
    path = archives.find(archive_id)
    assert path.read_bytes() == DOCKER
    assert b"".join([chunk async for chunk in archives.read(path)]) == DOCKER


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
)
@pytest.mark.parametrize("content", [DOCKER, oci()], ids=["docker", "oci"])
async def test_a_compressed_archive_is_stored_as_docker_can_load_it(
    archives: ArchiveFiles, compress: Callable[[bytes], bytes], content: bytes
) -> None:
    """Without the program for it: Debian's Docker needs one for xz."""
    compressed = compress(content)
    archive_id = await archives.upload(stream(compressed))
    assert archive_id == sha256(compressed).hexdigest()
    with tarfile.open(archives.find(archive_id), "r:") as archive:
        assert "manifest.json" in archive.getnames()
    assert len(list(archives.root.iterdir())) == 1


async def test_of_a_compressed_archive_of_several_parts_nothing_is_lost(
    archives: ArchiveFiles,
) -> None:
    for compress in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        parts = compress(DOCKER[:1000]) + compress(DOCKER[1000:])
        path = archives.find(await archives.upload(stream(parts)))
        assert path.read_bytes() == DOCKER


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x04\x22\x4d\x18" + bytes(100), "lz4"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
    ],
)
async def test_a_form_that_is_not_understood_is_named(
    archives: ArchiveFiles, content: bytes, form: str
) -> None:
    with pytest.raises(InvalidRequest, match="image archive") as caught:
        await archives.upload(stream(content))
    assert f"compressed as {form};" in caught.value.details


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
async def test_a_layer_may_be_a_link_to_another(archives: ArchiveFiles, kind: bytes) -> None:
    def linking(target: str) -> bytes:
        buffer = io.BytesIO(docker(("a:1",), layers=("1/layer.tar", "2/layer.tar")))
        with tarfile.open(fileobj=buffer, mode="a") as archive:
            first = tarfile.TarInfo("1/layer.tar")
            first.size = 3
            archive.addfile(first, io.BytesIO(b"tar"))
            second = tarfile.TarInfo("2/layer.tar")
            second.type, second.linkname = kind, target
            archive.addfile(second)
        return buffer.getvalue()

    right, wrong = "../1/layer.tar", "../3/layer.tar"
    if kind == tarfile.LNKTYPE:
        right, wrong = "1/layer.tar", "3/layer.tar"
    assert await archives.upload(stream(linking(right)))
    for target in (wrong, "2/layer.tar", "layer.tar", "/etc/passwd"):
        with pytest.raises(InvalidRequest) as caught:
            await archives.upload(stream(linking(target)))
        assert "'2/layer.tar', which it does not have" in caught.value.details


@pytest.mark.parametrize("reference", ["a:1", "a:2", "docker.io/library/a:1", "any/name", "b:7"])
async def test_the_only_image_of_an_archive_has_whatever_name(
    archives: ArchiveFiles, reference: str
) -> None:
    for names in ((), ("a:1",), ("a:1", "a:2")):
        await archives.check_has(await archives.upload(stream(docker(names))), reference)


async def test_one_of_several_is_named(archives: ArchiveFiles) -> None:
    archive = await archives.upload(stream(docker(("a:1", "b:latest"), ("c:1",))))
    for reference in ("a:1", "b", "docker.io/library/b:latest", "c:1"):
        await archives.check_has(archive, reference)
    with pytest.raises(ImageNotFound, match="no image a:2") as caught:
        await archives.check_has(archive, "a:2")
    assert caught.value.details == "it has: a:1, b:latest, c:1"


async def test_an_archives_image_has_no_digest(archives: ArchiveFiles) -> None:
    archive = await archives.upload(stream(DOCKER))
    with pytest.raises(InvalidRequest, match="digest") as caught:
        await archives.check_has(archive, "a:1@sha256:" + "0" * 64)
    assert caught.value.resolution == "name it by a tag: a:1"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "./"])
async def test_an_oci_layout_becomes_loadable(
    archives: ArchiveFiles, nested: bool, prefix: str
) -> None:
    (entry,) = await loadable(archives, oci(nested=nested, prefix=prefix))
    assert entry["RepoTags"] == ["app:1"]
    with tarfile.open(next(archives.root.iterdir())) as archive:
        names = {os.path.normpath(name) for name in archive.getnames()}
    assert {entry["Config"], *entry["Layers"]} <= names


async def test_a_bare_tag_is_no_name(archives: ArchiveFiles) -> None:
    (entry,) = await loadable(archives, oci(name="latest"))
    assert entry["RepoTags"] is None


async def test_the_same_archive_may_be_uploaded_again(archives: ArchiveFiles) -> None:
    one = await archives.upload(stream(oci()))
    assert await archives.upload(stream(oci())) == one
    assert len(list(archives.root.iterdir())) == 1


def endless() -> bytes:
    digest = "sha256:" + "1" * 64
    index = json.dumps({"manifests": [{"digest": digest}]}).encode()
    return packed({"index.json": index, stored_at(digest): index})


def linked(target: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = tarfile.SYMTYPE, target
        archive.addfile(member)
    return buffer.getvalue()


LARGE = packed({"layer.tar": os.urandom(60_000), "manifest.json": b"[{}]"})
BAD = {
    "nothing": b"",
    "text": b"hello" * 1000,
    "empty tar": packed({}),
    "something else": packed({"etc/passwd": b"root"}),
    "half a docker archive": DOCKER[:600],
    "half a compressed one": gzip.compress(LARGE)[:30_000],
    "damaged compressed": gzip.compress(LARGE)[:30_000] + b"\xff" * 30_000,
    "half a compressed one (xz)": lzma.compress(LARGE)[:30_000],
    "damaged compressed (xz)": lzma.compress(LARGE)[:30_000] + b"\xff" * 30_000,
    "half a compressed one (zstd)": zstandard.compress(LARGE)[:30_000],
    "compressed twice": gzip.compress(gzip.compress(LARGE)),
    "a layer is missing": docker(("a:1",), layers=("gone/layer.tar",)),
    "half a compressed one (bzip2)": bz2.compress(LARGE)[:30_000],
    "not gzip after all": b"\x1f\x8b" + b"\0" * 100,
    "manifest is no list": packed({"manifest.json": b"42"}),
    "manifest is no JSON": packed({"manifest.json": b"{"}),
    "manifest is deep": packed({"manifest.json": b"[" * 100_000}),
    "manifest is a link": linked("/etc/passwd"),
    "manifest of nothing": packed({"manifest.json": b"[null]"}),
    "a configuration is a list": packed(
        {
            "0.json": b"[]",
            "manifest.json": b'[{"Config": "0.json", "RepoTags": ["a:1"], "Layers": []}]',
        }
    ),
    "a name is none": docker(("A:1\x1b[31m",)),
    "a name is too long": docker(("a" * 256,)),
    "index is a list": packed({"index.json": b"[]"}),
    "index of nothing": packed({"index.json": b'{"manifests": [{}]}'}),
    "index of a number": packed({"index.json": b'{"manifests": 5}'}),
    "digest is a path": packed({"index.json": b'{"manifests": [{"digest": "sha256:../../x"}]}'}),
    "digest is a number": packed({"index.json": b'{"manifests": [{"digest": 7}]}'}),
    "blob is missing": packed(
        {"index.json": json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}]}).encode()}
    ),
    "endless": endless(),
    "another machine's": oci(architecture="arm64", os="linux"),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
async def test_what_is_no_archive_is_refused_and_leaves_nothing(
    archives: ArchiveFiles, content: bytes
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await archives.upload(stream(content))
    assert "docker save" in caught.value.resolution
    assert list(archives.root.iterdir()) == []


async def test_what_is_no_archive_is_told_in_plain_words(archives: ArchiveFiles) -> None:
    damaged = packed({"manifest.json": b"[null]"}), packed({"index.json": b'{"manifests": 5}'})
    for content in (b"no tar at all", gzip.compress(b"nor this"), packed({}), *damaged):
        with pytest.raises(InvalidRequest) as caught:
            await archives.upload(stream(content))
        assert "Error(" not in caught.value.details
        assert "object" not in caught.value.details
        assert "\\n" not in caught.value.details


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["manifests", "digest", "config", "layers", "platform", "annotations"]),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(values, values)
async def test_whatever_the_index_says_the_answer_is_an_id_or_a_refusal(
    archives: ArchiveFiles, index: object, inner: object
) -> None:
    digest, content = blob(inner)
    for document in (index, {"manifests": [{"digest": digest, "annotations": {}}]}):
        files = {"index.json": json.dumps(document).encode(), stored_at(digest): content}
        with contextlib.suppress(InvalidRequest):
            archives.find(await archives.upload(stream(packed(files))))
        assert not list(archives.root.glob(".upload-*"))


async def test_an_upload_that_breaks_off_leaves_nothing(archives: ArchiveFiles) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DOCKER[:100]
        raise ConnectionResetError("the client went away")

    with pytest.raises(Exception, match=r"went away|refused"):
        await archives.upload(broken())
    assert list(archives.root.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../secret", "0" * 63, "0" * 65, "Z" * 64, "a/b"])
async def test_an_id_is_never_a_path(archives: ArchiveFiles, name: str) -> None:
    archives.root.mkdir()
    (archives.root.parent / "secret").write_text("secret")
    with pytest.raises(NotFound):
        archives.find(name)


async def test_looking_for_one_is_a_use(archives: ArchiveFiles) -> None:
    """By its time the garbage collection knows when it was used last."""
    used = await archives.upload(stream(DOCKER))
    os.utime(archives.root / used, (0, 0))
    assert archives.find(used).stat().st_mtime > 0
