"""A worker's changed files leave as a tar and come back as they were; hostile tars lay nothing."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.file_trees import seen

from warmboot.criu.archives.layer_files import move_in, refuse_foreign, unpack_layer
from warmboot.criu.archives.layers import IMPORTED, OPAQUE, measure_changes, pack_changes
from warmboot.model.errors import Conflict, InvalidRequest, NotSupported

pytestmark = pytest.mark.root

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
"""cap_net_bind_service, as `setcap` writes it."""


def travel(upper: Path, folder: Path) -> Path:
    """Pack ``upper`` and unpack it elsewhere."""
    layer, target = folder / "layer.tar", folder / "target"
    target.mkdir()
    measured = measure_changes(upper)
    with layer.open("wb") as packed:
        deleted = pack_changes(upper, packed)
    assert (measured.size_bytes, measured.deleted) == (layer.stat().st_size, deleted)
    with layer.open("rb") as stream:
        unpack_layer(stream, deleted, target, 10_000)
    return target


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    folder.mkdir(mode=0o755)
    return folder


def test_all_that_a_worker_may_have_made_travels(upper: Path, tmp_path: Path) -> None:
    work = upper / "var" / "trial"
    work.mkdir(parents=True, mode=0o700)
    (work / "a").write_text("one")
    (work / "b").hardlink_to(work / "a")
    os.mkfifo(work / "pipe", 0o600)
    (work / "pipe2").hardlink_to(work / "pipe")
    (work / "link").symlink_to("/etc/passwd")
    (work / "link2").hardlink_to(work / "link")
    os.lchown(work / "link", 7, 8)
    Path(os.fsdecode(os.fsencode(work) + b"/caf\xe9")).write_text("not UTF-8")
    os.mknod(os.fsencode(work) + b"/gone\xff", stat.S_IFCHR, 0)
    os.mknod(work / "deleted", stat.S_IFCHR, 0)
    os.mknod(work / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(work / "s"))
    tool = work / "tool"
    tool.write_text("#!/bin/sh\n")
    os.chown(tool, 0, 1000)
    tool.chmod(0o6755)
    os.setxattr(tool, "security.capability", CAPABILITY)
    os.setxattr(tool, "user.note", b"\x00\xff=\n")
    (upper / "emptied").mkdir()
    os.setxattr(upper / "emptied", OPAQUE, b"y")
    os.setxattr(upper / "emptied", "trusted.overlay.origin", b"x")
    (work / ("n" * 255)).mkdir()
    (work / ("n" * 255) / ("m" * 255)).write_text("long")
    os.chown(work, 3_000_000, 3_000_001)
    os.utime(tool, ns=(5, 1_700_000_000_123_456_789))
    os.utime(work / "pipe", ns=(5, -3_000_000_001))  # before 1970
    os.utime(work / "null", ns=(5, -1))
    os.utime(work / "a", ns=(5, 10_413_792_000 * 10**9 + 7))  # in the year 2300
    upper.chmod(0o751)
    target = travel(upper, tmp_path)
    os.removexattr(upper / "emptied", "trusted.overlay.origin")  # it names an inode of this disk
    assert seen(target) == seen(upper)


def test_holes_stay_holes(upper: Path, tmp_path: Path) -> None:
    with (upper / "sparse").open("wb") as file:
        file.seek(1 << 33)
        file.write(b"in the middle")
        file.truncate(1 << 34)
    (upper / "empty").touch()
    with (upper / "hole").open("wb") as file:
        file.truncate(1 << 30)
    target = travel(upper, tmp_path)
    assert (tmp_path / "layer.tar").stat().st_size < 1 << 20
    for name in ("sparse", "hole"):
        assert (target / name).stat().st_size == (upper / name).stat().st_size
        assert (target / name).stat().st_blocks < 1 << 10
    with (target / "sparse").open("rb") as file:
        file.seek(1 << 33)
        assert file.read(13) == b"in the middle"


names = st.binary(min_size=1, max_size=120).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
trees = st.dictionaries(
    names,
    st.recursive(
        st.one_of(st.binary(max_size=2000), st.sampled_from(["fifo", "deleted", "link"])),
        lambda below: st.dictionaries(names, below, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)


def grow(folder: Path, tree: dict[bytes, object]) -> None:
    folder.mkdir(exist_ok=True)
    for name, what in tree.items():
        path = folder / os.fsdecode(name)
        if isinstance(what, dict):
            grow(path, what)
        elif isinstance(what, bytes):
            path.write_bytes(what)
            if what[:1] > b"\x80":
                os.setxattr(path, "user.x", what[:50])
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "link":
            path.symlink_to(os.fsdecode(b"../" + name))
        else:
            os.mknod(path, stat.S_IFCHR, 0)


@given(tree=trees)
@settings(max_examples=60)
def test_whatever_is_exported_can_be_imported(
    tree: dict[bytes, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    grow(folder / "upper", tree)
    assert seen(travel(folder / "upper", folder)) == seen(folder / "upper")


def _block_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK, os.makedev(8, 0))


def _memory(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(1, 1))


def _foreign_attribute(path: Path) -> None:
    path.touch()
    os.setxattr(path, "trusted.other", b"1")


def _redirected(path: Path) -> None:
    path.mkdir()
    os.setxattr(path, "trusted.overlay.redirect", b"/elsewhere")


def _opaque_otherwise(path: Path) -> None:
    path.mkdir()
    os.setxattr(path, OPAQUE, b"x")


@pytest.mark.parametrize(
    "make", [_block_device, _memory, _foreign_attribute, _redirected, _opaque_otherwise]
)
def test_what_cannot_travel_fails_the_export_by_name(
    upper: Path, make: Callable[[Path], None]
) -> None:
    (upper / "var").mkdir()
    make(Path(os.fsdecode(os.fsencode(upper) + b"/var/\xe9")))
    with pytest.raises(NotSupported, match=r"/var/\\xe9 cannot be exported") as before:
        measure_changes(upper)
    assert before.value.resolution
    with pytest.raises(NotSupported) as then:
        pack_changes(upper, io.BytesIO())
    assert str(then.value) == str(before.value)


# -- hostile ------------------------------------------------------------------------------------

Member = tuple[str, bytes, str]


def _tar(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(content or b"x" * member.size))
    return buffer.getvalue()


def _entry(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", /, **records: str
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    member.pax_headers = {key.replace("__", "."): value for key, value in records.items()}
    return member


def _sized(member: tarfile.TarInfo, size: int) -> tarfile.TarInfo:
    member.size = size
    return member


def _device(name: str, kind: bytes, major: int, minor: int) -> tarfile.TarInfo:
    member = _entry(name, kind)
    member.devmajor, member.devminor = major, minor
    return member


FOLDER = _entry("d", tarfile.DIRTYPE)
MAP = {"GNU__sparse__major": "1", "GNU__sparse__minor": "0", "GNU__sparse__name": "f"}
HOSTILE: dict[str, bytes] = {
    "dots": _tar(_entry("../x")),
    "dots within": _tar(FOLDER, _entry("d/../../x")),
    "absolute": _tar(_entry("/tmp/wb-escaped")),
    "through a link": _tar(_entry("l", tarfile.SYMTYPE, "/tmp"), _entry("l/wb-escaped")),
    "over a link": _tar(_entry("l", tarfile.SYMTYPE, "/tmp/wb-escaped"), _entry("l")),
    "folder over a link": _tar(_entry("l", tarfile.SYMTYPE, "/tmp"), _entry("l", tarfile.DIRTYPE)),
    "hard link out": _tar(_entry("h", tarfile.LNKTYPE, "/etc/passwd")),
    "hard link by dots": _tar(_entry("h", tarfile.LNKTYPE, "../../etc/passwd")),
    "hard link through a link": _tar(
        _entry("l", tarfile.SYMTYPE, "/etc"), _entry("h", tarfile.LNKTYPE, "l/passwd")
    ),
    "hard link to a folder": _tar(FOLDER, _entry("h", tarfile.LNKTYPE, "d")),
    "hard link to nothing": _tar(_entry("h", tarfile.LNKTYPE, "nothing")),
    "disk": _tar(_device("sda", tarfile.BLKTYPE, 8, 0)),
    "memory": _tar(_device("mem", tarfile.CHRTYPE, 1, 1)),
    "twice": _tar(_entry("a"), _entry("a")),
    "no parent": _tar(_entry("d/x")),
    "below a file": _tar(_entry("a"), _entry("a/x")),
    "attribute": _tar(_entry("a", SCHILY__xattr__trusted__evil="1")),
    "redirect": _tar(_entry("d", tarfile.DIRTYPE, SCHILY__xattr__trusted__overlay__redirect="/x")),
    "long name": _tar(_entry("n" * 256)),
    "empty link": _tar(_entry("l", tarfile.SYMTYPE, "")),
    "size": _tar(_entry("a", size="99999999999999999999999")),
    "folder with content": _tar(_sized(_entry("d", tarfile.DIRTYPE), 512)),
    "FIFO with content": _tar(_sized(_entry("p", tarfile.FIFOTYPE), 512)),
    "root is a file": _tar(_entry(".")),
    "holes without a map": _tar(
        _sized(_entry("f", **MAP, GNU__sparse__realsize="10"), 512), content=b"x" * 512
    ),
    "holes beyond the end": _tar(
        _sized(_entry("f", **MAP, GNU__sparse__realsize="10"), 1024),
        content=b"1\n5\n512\n".ljust(1024, b"\0"),
    ),
    "holes without end": _tar(
        _sized(_entry("f", **MAP, GNU__sparse__realsize="10"), 512),
        content=b"99999999\n".ljust(512, b"\0"),
    ),
    "cut off": _tar(_sized(_entry("a"), 4000))[:1024],
    "no tar": b"\xff" * 2048,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_layer_is_refused(tmp_path: Path, what: str) -> None:
    target = tmp_path / "a" / "target"
    target.mkdir(parents=True)
    with pytest.raises(InvalidRequest) as caught:
        unpack_layer(io.BytesIO(HOSTILE[what]), (), target, 100)
    assert caught.value.resolution
    assert not Path("/tmp/wb-escaped").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("deleted", ["/../x", "/", "/a/b", "/\ud800", "/nothing/x"])
def test_hostile_marks_of_deleted_files_are_refused(tmp_path: Path, deleted: str) -> None:
    with pytest.raises(InvalidRequest):
        unpack_layer(io.BytesIO(_tar(_entry("a"))), (deleted,), tmp_path, 100)


def test_more_files_than_are_allowed_are_refused(tmp_path: Path) -> None:
    many = _tar(*(_entry(f"f{number}") for number in range(6)))
    with pytest.raises(InvalidRequest, match="more than 5"):
        unpack_layer(io.BytesIO(many), (), tmp_path, 5)


def test_a_layer_of_the_release_before_is_read(tmp_path: Path) -> None:
    """GNU's format, with names that are not UTF-8 and longer than a header has room for."""
    buffer = io.BytesIO()
    long, odd = "d/" + "n" * 200, os.fsdecode(b"d/caf\xe9")
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in (FOLDER, _entry(long), _entry(odd), _entry("l", tarfile.SYMTYPE, "x" * 150)):
            tar.addfile(member)
    buffer.seek(0)
    unpack_layer(buffer, ("/d/gone",), tmp_path, 100)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "n" * 200,
        os.fsdecode(b"caf\xe9"),
        "gone",
    }
    assert (tmp_path / "l").readlink() == Path("x" * 150)


# -- into its place -----------------------------------------------------------------------------


def test_an_interrupted_import_is_done_again(upper: Path, tmp_path: Path) -> None:
    (upper / "workdir").mkdir()
    refuse_foreign(upper)
    for content in ("first", "second"):
        unpacked = tmp_path / content
        unpacked.mkdir(mode=0o711)
        (unpacked / content).write_text(content)
        move_in(unpacked, upper)
        refuse_foreign(upper)
    assert [path.name for path in upper.iterdir()] == ["second"]
    assert upper.stat().st_mode & 0o777 == 0o711
    assert os.getxattr(upper, IMPORTED)
    assert pack_changes(upper, io.BytesIO()) == ()


def test_files_of_somebody_else_are_not_overwritten(upper: Path) -> None:
    (upper / "etc").mkdir()
    (upper / "etc" / "mine").touch()
    with pytest.raises(Conflict) as caught:
        refuse_foreign(upper)
    assert "etc/mine" in caught.value.details
