"""Checkpoints leave as an archive and come back into a fresh container, or are refused."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.criu.conftest import Start, counted, last_count
from tests.support.dockerd import REPOSITORY, PrivateDockerd
from tests.support.file_trees import seen

from warmboot.criu.archives.archive import (
    Limits,
    export_checkpoint,
    import_checkpoint,
)
from warmboot.criu.archives.interrupted_imports import discard_imports
from warmboot.criu.checkpoint import Dumped, checkpoint
from warmboot.criu.restore import restore
from warmboot.criu.runtime.stored import STAGING
from warmboot.criu.setup.install import apt_settings
from warmboot.docker.engine import DockerEngine
from warmboot.model.checkpoint import ArchiveManifest
from warmboot.model.errors import (
    CheckpointError,
    Conflict,
    InvalidRequest,
    NotSupported,
)
from warmboot.system.programs import run_program

pytestmark = [pytest.mark.docker, pytest.mark.root]

COUNT_AND_WRITE = (
    "s=$(head -c 8 /dev/urandom | od -An -tx1 | head -c 24); i=0; mkdir /state; exec 3>/state/log; "
    'while true; do i=$((i+1)); echo "$s $i"; echo $i >&3; sleep 0.1; done'
)


@dataclass(frozen=True)
class Exported:
    path: Path
    secret: str
    count: int
    image: str
    criu: str


@pytest.fixture
async def exported(engine: DockerEngine, start: Start, tmp_path: Path) -> Exported:
    """An archive of a counter that keeps a file of its own open."""
    container = await start(script=COUNT_AND_WRITE)
    secret, _ = await counted(engine, container, beyond=3)
    dumped = await checkpoint(engine, container, "cp")
    _, count = await last_count(engine, container)
    path = tmp_path / "cp.tar.zst"
    await _export(engine, dumped, path)
    image = (await engine.inspect(container)).image
    return Exported(path, secret, count, image, dumped.versions.criu)


async def _export(engine: DockerEngine, dumped: Dumped, path: Path) -> None:
    chunks = export_checkpoint(
        engine,
        dumped.container_id,
        dumped.name,
        versions=dumped.versions,
        created_at=datetime.now(UTC),
    )
    path.write_bytes(b"".join([chunk async for chunk in chunks]))


async def _import(
    engine: DockerEngine, container: str, name: str, source: Path, *, criu: str, **more: Any
) -> ArchiveManifest:
    with source.open("rb") as file:
        return await import_checkpoint(engine, container, name, file, criu=criu, **more)


async def test_it_goes_on_in_a_fresh_container(
    engine: DockerEngine, start: Start, exported: Exported
) -> None:
    fresh = await start(exported.image, running=False)
    manifest = await _import(engine, fresh, "moved", exported.path, criu=exported.criu)
    assert manifest.image_digest == (await engine.inspect(fresh)).image_digest
    await restore(engine, fresh, "moved")
    assert await counted(engine, fresh) == (exported.secret, exported.count + 1)


HARD_TO_CARRY = (
    "mkdir -p /var/t; cd /var/t; echo x > a; ln a b; mkfifo p; exec 4<>p; "
    "echo y > \"$(printf 'caf\\351')\"; chmod 4755 a; rm -f /bin/nc; "
    "s=$(head -c 8 /dev/urandom | od -An -tx1 | head -c 24); i=0; "
    'while true; do i=$((i+1)); echo "$s $i"; sleep 0.1; done'
)


async def test_links_pipes_odd_names_and_deleted_files_move_with_it(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    container = await start(script=HARD_TO_CARRY)
    secret, _ = await counted(engine, container, beyond=3)
    dumped = await checkpoint(engine, container, "cp")
    path = tmp_path / "cp.tar.zst"
    await _export(engine, dumped, path)
    there = await engine.inspect(container)
    fresh = await start(there.image, running=False)
    await _import(engine, fresh, "moved", path, criu=dumped.versions.criu)
    here = await engine.inspect(fresh)
    assert there.upper_folder is not None
    assert here.upper_folder is not None
    files = seen(here.upper_folder)
    assert files == seen(there.upper_folder)
    assert {b"/var/t/a", b"/var/t/b", b"/var/t/p", b"/var/t/caf\xe9", b"/bin/nc"} <= set(files)
    await restore(engine, fresh, "moved")
    assert (await counted(engine, fresh))[0] == secret


async def test_what_cannot_travel_fails_the_export_and_leaves_nothing(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    container = await start(script="mknod /sda b 8 0; while true; do echo a 1; sleep 0.1; done")
    await counted(engine, container)
    dumped = await checkpoint(engine, container, "cp")
    with pytest.raises(NotSupported, match="/sda"):
        await _export(engine, dumped, tmp_path / "cp.tar.zst")
    assert list(tmp_path.iterdir()) == []


async def test_what_an_interrupted_import_has_left_is_removed(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start, exported: Exported
) -> None:
    fresh = await start(exported.image, running=False)
    folder = dockerd.data_root / "containers" / fresh
    (folder / f"{STAGING}left" / "checkpoint").mkdir(parents=True)
    await _import(engine, fresh, "whole", exported.path, criu=exported.criu)
    await _import(engine, fresh, "unknown", exported.path, criu=exported.criu)
    for _ in range(2):
        await discard_imports(engine, fresh, {"whole"})
        assert await engine.checkpoints(fresh) == ["whole"]
        assert list(folder.glob(f"{STAGING}*")) == []
    await restore(engine, fresh, "whole")


async def test_an_export_leaves_nothing_beside_the_archive(exported: Exported) -> None:
    assert [path.name for path in exported.path.parent.iterdir()] == ["cp.tar.zst"]


async def test_what_runs_is_not_exported(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    container = await start()
    dumped = await checkpoint(engine, container, "cp", leave_running=True)
    with pytest.raises(Conflict):
        await _export(engine, dumped, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


async def test_checkpointctl_reads_it(exported: Exported) -> None:
    prefix = REPOSITORY / ".state" / "checkpointctl"
    if not (prefix / "usr/bin/checkpointctl").exists():
        shutil.rmtree(prefix, ignore_errors=True)
        options = ["--quiet", "--variant=extract", "--include=checkpointctl", *await apt_settings()]
        made = await run_program(
            "mmdebstrap", *options, "trixie", prefix, check=False, timeout_s=300
        )
        assert made.ok, made.output
    loader = next(prefix.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = next(prefix.glob("usr/lib/*-linux-gnu*"))
    program = [str(loader), "--library-path", str(libraries), f"{prefix}/usr/bin/checkpointctl"]
    shown = await run_program(*program, "show", exported.path, check=False)
    assert shown.ok, shown.output
    assert exported.image.split("/")[1].split(":")[0] in shown.output
    inspected = await run_program(*program, "inspect", "--ps-tree", exported.path, check=False)
    assert inspected.ok, inspected.output
    assert "sh" in inspected.output


async def test_another_image_is_refused(
    engine: DockerEngine, start: Start, exported: Exported
) -> None:
    other = await start(running=False)
    with pytest.raises(NotSupported, match="image"):
        await _import(engine, other, "moved", exported.path, criu=exported.criu)


async def test_an_older_criu_is_refused(
    engine: DockerEngine, start: Start, exported: Exported
) -> None:
    fresh = await start(exported.image, running=False)
    with pytest.raises(NotSupported, match="CRIU"):
        await _import(engine, fresh, "moved", exported.path, criu="4.0")


async def test_a_worker_that_has_run_is_refused(
    engine: DockerEngine, start: Start, exported: Exported
) -> None:
    ran = await start(exported.image)
    with pytest.raises(Conflict):
        await _import(engine, ran, "moved", exported.path, criu=exported.criu)


# -- hostile and damaged archives ---------------------------------------------------------------

Parts = dict[str, bytes]
LIMITS = Limits(members=500)


def _parts(path: Path) -> Parts:
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        files = ((member.name, tar.extractfile(member)) for member in tar)
        return {name: file.read() for name, file in files if file is not None}


def _write(path: Path, parts: Parts, extra: list[tarfile.TarInfo] | None = None) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra or []:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    path.write_bytes(zstandard.ZstdCompressor().compress(buffer.getvalue()))


def _announce(parts: Parts, name: str, content: bytes, *, at: str | None = None) -> Parts:
    """Add a member and put it into the manifest, as somebody who knows the format would."""
    manifest = json.loads(parts["warmboot.json"])
    manifest["files"][name] = {
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {**parts, at or name: content, "warmboot.json": json.dumps(manifest).encode()}


def _member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _flip(parts: Parts) -> Parts:
    name = "checkpoint/pages-1.img"
    return {**parts, name: bytes([parts[name][0] ^ 1]) + parts[name][1:]}


def _layer_with(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def _bomb(parts: Parts) -> Parts:
    manifest = json.loads(parts["warmboot.json"])
    manifest["files"]["checkpoint/pages-1.img"]["size_bytes"] = 1 << 60
    return {**parts, "warmboot.json": json.dumps(manifest).encode()}


HOSTILE: dict[str, Callable[[Path, Parts], object]] = {
    "no zstd": lambda path, parts: path.write_bytes(b"not an archive"),
    "empty": lambda path, parts: path.write_bytes(b""),
    "cut off": lambda path, parts: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped byte": lambda path, parts: _write(path, _flip(parts)),
    "file missing": lambda path, parts: _write(
        path, {k: v for k, v in parts.items() if k != "checkpoint/pages-1.img"}
    ),
    "not announced": lambda path, parts: _write(path, {**parts, "checkpoint/more.img": b"x"}),
    "no manifest": lambda path, parts: _write(path, {"config.dump": b"{}", **parts}),
    "broken manifest": lambda path, parts: _write(path, {**parts, "warmboot.json": b"{"}),
    "nested manifest": lambda path, parts: _write(path, {**parts, "warmboot.json": b"[" * 100_000}),
    "absolute path": lambda path, parts: _write(path, _announce(parts, "/tmp/wb-escaped", b"x")),
    "dots": lambda path, parts: _write(path, _announce(parts, "checkpoint/../../wb-escaped", b"x")),
    "sub-folder": lambda path, parts: _write(path, _announce(parts, "checkpoint/a/b", b"x")),
    "salt": lambda path, parts: _write(path, _announce(parts, "checkpoint/warmboot.salt", b"x")),
    "symbolic link": lambda path, parts: _write(
        path, parts, [_member("checkpoint/link", tarfile.SYMTYPE, "/etc/passwd")]
    ),
    "hard link": lambda path, parts: _write(
        path, parts, [_member("checkpoint/link", tarfile.LNKTYPE, "/etc/passwd")]
    ),
    "device": lambda path, parts: _write(path, parts, [_member("checkpoint/sda", tarfile.BLKTYPE)]),
    "fifo": lambda path, parts: _write(path, parts, [_member("checkpoint/pipe", tarfile.FIFOTYPE)]),
    "bomb": lambda path, parts: _write(path, _bomb(parts)),
    "too many": lambda path, parts: _write(
        path, parts, [_member(f"checkpoint/{n}", tarfile.DIRTYPE) for n in range(600)]
    ),
    "layer leaves": lambda path, parts: _write(
        path,
        _announce(parts, "rootfs-diff.tar", _layer_with(_member("../x", tarfile.SYMTYPE, "/"))),
    ),
    "layer device": lambda path, parts: _write(
        path, _announce(parts, "rootfs-diff.tar", _layer_with(_member("sda", tarfile.BLKTYPE)))
    ),
    "no sums": lambda path, parts: _write(
        path, {k: v for k, v in parts.items() if k != "sums.json"}
    ),
    "no sum of one": lambda path, parts: _write(path, {**parts, "sums.json": b"{}"}),
    "sums that are none": lambda path, parts: _write(path, {**parts, "sums.json": b"[1]"}),
    "layer no tar": lambda path, parts: _write(
        path, _announce(parts, "rootfs-diff.tar", b"\xff" * 2048)
    ),
}


async def test_a_damaged_or_hostile_archive_is_refused_and_leaves_nothing(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start, exported: Exported
) -> None:
    fresh = await start(exported.image, running=False)
    parts, whole = _parts(exported.path), exported.path.read_bytes()
    folder = dockerd.data_root / "containers" / fresh
    before = sorted(str(path) for path in folder.rglob("*"))
    for what, spoil in HOSTILE.items():
        exported.path.write_bytes(whole)
        spoil(exported.path, parts)
        with pytest.raises((InvalidRequest, CheckpointError)) as caught:
            await _import(
                engine,
                fresh,
                "moved",
                exported.path,
                criu=exported.criu,
                limits=Limits(members=500),
            )
        assert caught.value.resolution, what
        assert sorted(str(path) for path in folder.rglob("*")) == before, what
    assert not Path("/tmp/wb-escaped").exists()
    exported.path.write_bytes(whole)
    await _import(engine, fresh, "moved", exported.path, criu=exported.criu)
    await restore(engine, fresh, "moved")
