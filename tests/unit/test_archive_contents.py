"""What goes into an archive is what was written down at the dump; archives of before are read."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from warmboot.criu.archives import checked_files
from warmboot.criu.archives.archive import Limits, unpack_archive
from warmboot.criu.archives.manifests import CONFIG_DUMP, SPEC_DUMP
from warmboot.criu.archives.packing import Contents, stream_archive
from warmboot.criu.runtime.sums import BLOCK_BYTES, crc32, make_sums
from warmboot.model.checkpoint import ArchiveManifest, Versions
from warmboot.model.errors import CheckpointError

pytestmark = pytest.mark.root

FAR = 3 * BLOCK_BYTES + 5
MANIFEST = ArchiveManifest(
    "cp", datetime.now(UTC), "i", "d", Versions("", "", "", ""), "host", 1, 0
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """With pages of two blocks, and a file that has little at its end and in its middle."""
    top = tmp_path / "cp"
    for name in ("memory", "files"):
        (top / name).mkdir(parents=True)
    (top / "memory" / "pages-1.img").write_bytes(os.urandom(BLOCK_BYTES + 7))
    (top / "files" / "plain").write_bytes(b"x" * 4096)
    with (top / "files" / "holes").open("wb") as file:
        for at in (BLOCK_BYTES + 4096, FAR):
            file.seek(at)
            file.write(b"data")
        file.truncate(FAR + 100_000)
    make_sums(top, top / "memory", top / "files")
    return top


async def archive_of(checkpoint: Path) -> bytes:
    metadata = {CONFIG_DUMP: b"{}", SPEC_DUMP: b"{}"}
    folders = (checkpoint / "memory", checkpoint / "files")
    contents = Contents(MANIFEST, metadata, *folders, checkpoint)
    return b"".join([chunk async for chunk in stream_archive(contents)])


def unpack(archive: bytes, folder: Path) -> None:
    for name in ("staging", "changes"):
        (folder / name).mkdir()
    source = io.BytesIO(archive)
    unpack_archive(source, folder / "staging", folder / "changes", lambda _: None, Limits())


async def test_what_is_whole_arrives(checkpoint: Path, tmp_path: Path) -> None:
    unpack(await archive_of(checkpoint), tmp_path)
    for there, here in (("memory", "staging/checkpoint"), ("files", "changes")):
        for path in (checkpoint / there).iterdir():
            assert (tmp_path / here / path.name).read_bytes() == path.read_bytes()


async def test_holes_are_not_read_again_however_large(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed: list[int] = []

    def counted(part: memoryview, before: int = 0) -> int:
        summed.append(len(part))
        return crc32(part, before)

    with (checkpoint / "files" / "holes").open("r+b") as file:
        file.truncate(FAR + 100 * BLOCK_BYTES)
    make_sums(checkpoint, checkpoint / "memory", checkpoint / "files")
    monkeypatch.setattr(checked_files, "crc32", counted)
    await archive_of(checkpoint)
    assert sum(summed) < 10 * BLOCK_BYTES


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda top: _flip(top / "memory/pages-1.img", BLOCK_BYTES), "pages-1.img is not what"),
        (lambda top: _flip(top / "files/plain", 0), "plain is not what"),
        (lambda top: _flip(top / "files/holes", FAR), "holes is not what"),
        (lambda top: _flip(top / "files/holes", 5), "holes is not what"),
        (lambda top: os.truncate(top / "files/holes", FAR + 1), "holes is not what"),
        (lambda top: (top / "files/plain").unlink(), "plain is missing"),
        (lambda top: (top / "memory/more.img").touch(), "more.img is none of its files"),
    ],
    ids=["pages", "file", "data between holes", "hole", "shorter", "missing", "more"],
)
async def test_what_is_not_what_was_written_fails_the_export(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], object], name: str
) -> None:
    spoil(checkpoint)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        await archive_of(checkpoint)
    assert name in caught.value.details


async def test_an_archive_of_the_format_before_is_read(checkpoint: Path, tmp_path: Path) -> None:
    """The manifest had the sums then."""
    archive = zstandard.ZstdDecompressor().decompressobj().decompress(await archive_of(checkpoint))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = ((one.name, tar.extractfile(one)) for one in tar)
        parts = {name: file.read() for name, file in files if file is not None}
    manifest, sums = json.loads(parts["warmboot.json"]), json.loads(parts.pop("sums.json"))
    manifest["format"] = 2
    for name, digest in sums.items():
        manifest["files"][name]["sha256"] = digest
    parts["warmboot.json"] = json.dumps(manifest).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    unpack(zstandard.ZstdCompressor().compress(buffer.getvalue()), tmp_path)
    assert (tmp_path / "changes" / "plain").read_bytes() == b"x" * 4096


async def test_a_reader_that_goes_ends_the_export(checkpoint: Path) -> None:
    (checkpoint / "memory" / "pages-1.img").write_bytes(os.urandom(16 << 20))
    make_sums(checkpoint, checkpoint / "memory", checkpoint / "files")
    contents = Contents(
        MANIFEST,
        {CONFIG_DUMP: b"{}", SPEC_DUMP: b"{}"},
        checkpoint / "memory",
        checkpoint / "files",
        checkpoint,
    )
    async with asyncio.timeout(60), aclosing(stream_archive(contents)) as chunks:
        assert await anext(chunks)
