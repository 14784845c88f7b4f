"""Folders that cannot be given together with something else that an engine is to have."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmboot.manager.engines.folders.engine_folders import EngineFolders
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.engine import EngineSpec
from warmboot.model.tenants.host_folder import HostFolder


@pytest.mark.parametrize(
    ("port", "mirror", "possible"),
    [(917, None, False), (918, None, True), (918, 917, False), (918, 5000, True)],
)
async def test_the_port_at_which_folders_are_is_no_port_of_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, mirror: int | None, possible: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    vms = SimpleNamespace(engine_network=object(), mirror_port=mirror)
    given = EngineFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)))
    folder = HostFolder(str(tmp_path.resolve()))
    spec = EngineSpec("ci", 0, host_ports=(port,), folders=(folder,))
    if possible:
        assert await given.checked(spec, None) == (folder,)
    else:
        with pytest.raises(InvalidRequest, match="917"):
            await given.checked(spec, None)
