"""Changes to files of the host that a guest asks for, by what makes them, as this user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from warmboot.folder_server import tree as trees
from warmboot.folder_server.changes import Changes
from warmboot.folder_server.nfs import Nfs
from warmboot.folder_server.tree import Node, Tree
from warmboot.folder_server.xdr import Reader, opaque, u32, u64

ID = "00" * 8
SETATTR, WRITE, CREATE, COMMIT = 2, 7, 8, 21
NOTDIR = 20


def test_what_is_put_into_a_folders_place_gets_no_bits_of_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    program = tmp_path / "program"
    program.touch(0o755)
    tree = Tree({ID: str(tmp_path)})
    set_mode = Changes(Nfs(tree)).procedures()[SETATTR]
    node = folder_at(tree, "folder")
    wanted = opaque(node.handle) + u32(1) + u32(0o6755) + u32(0) * 6

    answer = Reader(b"".join(set_mode(Reader(wanted))))
    assert answer.u32() == 0
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o6755, "a folder may have them"

    look = tree.look

    def exchanged(node: Node) -> os.stat_result:
        found = look(node)
        (tmp_path / "folder").rename(tmp_path / "was")
        program.rename(tmp_path / "folder")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tree, "look", exchanged)
        patch.setattr(Nfs, "after", lambda *_: u32(0))
        answer = Reader(b"".join(set_mode(Reader(wanted))))
    assert answer.u32() == NOTDIR
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o755, 0o644, 0o444, 0o555])
@pytest.mark.parametrize("stable", [0, 2])
def test_a_program_can_be_started_once_it_is_written_and_what_is_read_only_can_be_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, stable: int
) -> None:
    me = os.geteuid() or 4711
    monkeypatch.setattr(os, "geteuid", lambda: me)
    tree = Tree({ID: str(tmp_path)})
    nfs = Nfs(tree)
    calls = {**nfs.procedures(), **Changes(nfs).procedures()}
    root = tree.root(ID)
    assert root is not None

    def call(procedure: int, *said: bytes) -> Reader:
        answer = Reader(b"".join(calls[procedure](Reader(b"".join(said)))))
        assert answer.u32() == 0
        return answer

    file = tmp_path / "file"
    made = call(CREATE, opaque(root.handle), opaque(b"file"), u32(1) * 2, u32(mode), u32(0) * 5)
    assert made.u32() == 1
    handle = made.opaque(64)
    file.chmod(mode)
    if os.getuid() == 0:
        os.chown(file, me, -1)
    call(WRITE, opaque(handle), u64(0), u32(2), u32(stable), opaque(b"#!"))
    if stable == 0:
        assert is_open(file), "more may come soon"
        call(COMMIT, opaque(handle), u64(0), u32(0))
    assert is_open(file) == (not mode & 0o200)

    monkeypatch.setattr(trees, "_IDLE_S", -1.0)
    tree.close_idle()
    assert is_open(file) == (mode == 0o444), "who has made it may write to it, and none starts it"
    monkeypatch.setattr(trees, "_MOST_OPEN", 1)
    (tmp_path / "other").touch()
    with tree.opened(folder_at(tree, "other")):
        assert is_open(file) == (mode == 0o444)
    file.unlink()
    tree.close_idle()
    assert not is_open(file)


def is_open(file: Path) -> bool:
    """By us; removed or not."""
    links = (str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return any(link.removesuffix(" (deleted)") == str(file) for link in links)


def folder_at(tree: Tree, name: str) -> Node:
    root = tree.root(ID)
    assert root is not None
    return tree.child(root, name.encode(), os.lstat(root.path + b"/" + name.encode()))
