"""Folders of the host that are asked for: what is refused, before anything is booted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import Lab

from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.host_folder import HostFolder


async def test_what_cannot_be_given_is_refused_in_words(place: Lab, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in2").mkdir()
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / "no text").symlink_to(os.fsdecode(b"\xff"))
    (tmp_path / "kernel").symlink_to("/proc/self")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    async with place.manager() as m:
        for paths, why in (
            (["/nonexistent"], "cannot be given to a VM"),
            ([str(tmp_path / "loop")], "cannot be given to a VM"),
            ([str(tmp_path / "no text")], "cannot be given to a VM"),
            (["/" + "x" * 300], "cannot be given to a VM"),
            ([str(file)], "is no folder"),
            (["/"], "never given"),
            (["/proc"], "never given"),
            ([str(tmp_path / "kernel")], "never given"),
            ([str(tmp_path), str(tmp_path / "link")], "given twice"),
            ([str(tmp_path), f"{tmp_path}/in:ro"], "cannot be read-only"),
            ([f"{tmp_path}/in:ro", f"{tmp_path}/link"], "cannot be read-only"),
            ([str(tmp_path)], "no network"),  # simulated VMs have none
            ([f"{tmp_path}:ro", f"{tmp_path}/in"], "no network"),
            ([f"{tmp_path}:ro", f"{tmp_path}/in:ro"], "no network"),
            ([f"{tmp_path}/in", f"{tmp_path}/in2:ro"], "no network"),
        ):
            folders = tuple(
                HostFolder(path.removesuffix(":ro"), path.endswith(":ro")) for path in paths
            )
            with pytest.raises(InvalidRequest, match=why):
                await create(m, folders=folders)
        assert not await engines_of(m).list()


def test_a_folder_has_the_same_id_wherever_it_is_given() -> None:
    ids = {HostFolder(path, read_only).id for path in ("/a", "/b") for read_only in (False, True)}
    assert len(ids) == 2
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)
