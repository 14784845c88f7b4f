"""Changes to files of the host that a guest asks for, by what makes them, as this user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from warmboot.folder_server.changes import Changes
from warmboot.folder_server.nfs import Nfs
from warmboot.folder_server.tree import Node, Tree
from warmboot.folder_server.xdr import Reader, opaque, u32

ID = "00" * 8
SETATTR = 2
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


def folder_at(tree: Tree, name: str) -> Node:
    root = tree.root(ID)
    assert root is not None
    return tree.child(root, name.encode(), os.lstat(root.path + b"/" + name.encode()))
