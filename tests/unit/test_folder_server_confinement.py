"""With which rights a folder of the host is mounted for the process that serves it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from warmboot.folder_server import confinement
from warmboot.folder_server.confinement import Share


@pytest.mark.parametrize(
    ("asked", "on_the_host", "read_only"),
    [
        (False, 0, False),
        (True, 0, True),
        (False, os.ST_RDONLY | os.ST_NOEXEC, True),
        (False, os.ST_NOSUID, False),
    ],
)
def test_what_is_mounted_read_only_on_the_host_is_not_writable_in_an_engine(
    monkeypatch: pytest.MonkeyPatch, asked: bool, on_the_host: int, read_only: bool
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_flag=on_the_host))
    flags = confinement._flags(Share("00" * 8, "/srv", asked), 7)
    assert bool(flags & confinement._MS_RDONLY) is read_only
    assert flags & confinement._MS_NOSUID
    assert flags & confinement._MS_NODEV
