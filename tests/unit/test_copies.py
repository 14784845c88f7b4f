"""Where a copy goes is as docker has it, and nothing of what a container gives gets out of it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from warmboot.client.files.copies import pack, place, unpack
from warmboot.model.errors import InvalidRequest


@pytest.mark.parametrize(
    ("target", "there", "as_folder", "folder", "contents", "expected"),
    [
        ("/d", "folder", False, False, False, ("/d", "f")),
        ("/d", "folder", True, True, False, ("/d", "f")),
        ("/d", "folder", True, True, True, ("/d", ".")),
        ("/d/new", "", False, False, False, ("/d", "new")),
        ("/d/new", "", True, True, False, ("/d", "new")),
        ("/d/new", "", False, True, True, ("/d", "new")),
        ("/d/old", "file", False, False, False, ("/d", "old")),
    ],
)
def test_where_a_copy_goes(
    target: str,
    there: str,
    as_folder: bool,
    folder: bool,
    contents: bool,
    expected: tuple[str, str],
) -> None:
    assert place(target, there, as_folder, "f", folder, contents) == expected


@pytest.mark.parametrize(
    ("there", "as_folder", "folder", "words"),
    [("file", False, True, "which is a file"), ("", True, False, "there is no folder /d")],
)
def test_what_has_no_place_is_refused(
    there: str, as_folder: bool, folder: bool, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        place("/d", there, as_folder, "f", folder, False)


def test_a_folder_is_packed_and_unpacked_under_another_name(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"content")
    os.link(source / "deep" / "file", source / "same")
    (source / "link").symlink_to("/nowhere")
    (source / "deep" / "file").chmod(0o750)
    out.mkdir()
    for name in ("renamed", "."):
        file = io.BytesIO()
        pack(file, source, "given")
        file.seek(0)
        unpack(file, out, name, keep_owners=False)
        copied = out / name
        assert (copied / "deep" / "file").read_bytes() == b"content"
        assert (copied / "same").samefile(copied / "deep" / "file")
        assert (copied / "deep" / "file").stat().st_mode & 0o777 == 0o750
        assert (copied / "link").readlink() == Path("/nowhere")


def _tar(*members: tarfile.TarInfo) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    file.seek(0)
    return file


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    info.uid = info.gid = 12345
    return info


TOP = _member("top", tarfile.DIRTYPE)
HOSTILE: list[Callable[[], io.BytesIO]] = [
    lambda: _tar(TOP, _member("top/../../escaped")),
    lambda: _tar(TOP, _member("top/a", tarfile.SYMTYPE, "../.."), _member("top/a/escaped")),
    lambda: _tar(TOP, _member("top/a", tarfile.SYMTYPE, "/"), _member("top/a/tmp/escaped")),
    lambda: _tar(TOP, _member("top/a", tarfile.LNKTYPE, "top/../../secret")),
    lambda: _tar(TOP, _member("top/a", tarfile.SYMTYPE, "../sibling"), _member("top/a")),
    lambda: _tar(TOP, _member("top/a", tarfile.CHRTYPE)),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("keep_owners", [False, True])
def test_nothing_gets_out_of_the_copy(tmp_path: Path, number: int, keep_owners: bool) -> None:
    target = tmp_path / "in" / "here"
    target.mkdir(parents=True)
    secret, sibling = tmp_path / "secret", target / "sibling"
    secret.write_text("secret")
    sibling.write_text("sibling")
    if not (number == len(HOSTILE) - 1 and keep_owners):  # `-a` makes devices, as it is asked to
        try:
            unpack(HOSTILE[number](), target, "copy", keep_owners=keep_owners)
        except InvalidRequest as error:
            assert "was not copied" in error.brief
    assert secret.read_text() == "secret"
    assert sibling.read_text() == "sibling"
    found = {path.relative_to(tmp_path) for path in tmp_path.rglob("escaped")}
    assert found == set()
    assert not Path("/tmp/escaped").exists()
    for path in (target / "copy").rglob("*"):
        assert not path.is_symlink() or not path.samefile(secret)
        if not keep_owners and not path.is_symlink():
            assert path.stat().st_uid == os.getuid()
