"""What a worker's container is created with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import EngineFacts
from warmboot.model.worker import Mount, WorkerSpec


class _Engine(DockerEngine):
    def __init__(self, info: Mapping[str, Any]) -> None:
        super().__init__(Path("/nonexistent/docker.sock"))
        self._info = info
        self.made: dict[str, Any] = {}

    @override
    async def facts(self) -> EngineFacts:
        return EngineFacts.of({}, self._info)

    @override
    async def create(self, name: str, config: Mapping[str, Any], platform: str = "") -> str:
        self.made = dict(config)
        return name


@pytest.mark.parametrize(
    ("of_engine", "of_worker"),
    [({"LoggingDriver": "json-file"}, "local"), ({"LoggingDriver": "journald"}, None)],
    ids=["usual", "chosen"],
)
async def test_a_worker_has_a_log_of_bytes_unless_another_driver_was_chosen(
    of_engine: dict[str, str], of_worker: str | None
) -> None:
    engine = _Engine(of_engine)
    await engine.create_worker(WorkerSpec("worker", "busybox"), extra_environment={})
    assert engine.made["HostConfig"].get("LogConfig", {}).get("Type") == of_worker


async def test_a_mount_has_the_folder_that_a_link_leads_to_as_criu_restores_no_link(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    engine = _Engine({})
    spec = WorkerSpec("worker", "busybox", mounts=(Mount(str(tmp_path / "link"), "/data"),))
    await engine.create_worker(spec, extra_environment={})
    (mounted,) = engine.made["HostConfig"]["Mounts"]
    assert (mounted["Source"], mounted["Target"]) == (str(tmp_path / "folder"), "/data")
