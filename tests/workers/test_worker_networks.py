"""Workers on each network, with a terminal and without, and what Docker can do with them then.

On a bridge only where the host's network is the tests' own (``scripts/with_docker_of.py``).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.workers.conftest import (
    counted,
    dockerd_with_runtime,
    goes_on,
    last_count,
    start_on,
)

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import InvalidRequest, NotSupported
from warmboot.model.sessions import ExecSpec

pytestmark = [pytest.mark.docker, pytest.mark.root]

OWN_NETWORK = bool(os.environ.get("WARMBOOT_OWN_NETWORK"))
NETWORKS = ("host", "none", *(("bridge",) if OWN_NETWORK else ()))


@pytest.fixture(scope="module")
async def dockerd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateDockerd]:
    settings: dict[str, Any] = {"bridge": "", "iptables": True} if OWN_NETWORK else {}
    async with dockerd_with_runtime(tmp_path_factory.mktemp("runtime"), **settings) as running:
        yield running


@pytest.mark.parametrize("tty", [False, True], ids=["plain", "tty"])
@pytest.mark.parametrize("network", NETWORKS)
async def test_a_worker_goes_on_and_is_docker_s_as_before(
    client: Client, engine: DockerEngine, network: str, tty: bool
) -> None:
    worker = await start_on(client, engine, network=network, tty=tty)
    docker_id = worker.docker_id or ""
    secret, _ = await counted(client, worker.id, beyond=2)
    for _ in range(2):
        await client.workers.pause(worker.id)
        await client.workers.resume(worker.id)
        await goes_on(client, worker.id, secret)
    await client.workers.create_checkpoint(worker.id, "kept")
    await goes_on(client, worker.id, secret)
    told = await engine.exec(docker_id, ExecSpec(("echo", "alive")))
    assert b"".join([chunk.data async for chunk in told]) == b"alive\n"
    await told.close()
    await engine.stop(docker_id, timeout_s=0)
    assert (await client.workers.wait(worker.id, "exited", 60)).state == "exited"
    _, ended = await last_count(client, worker.id)
    await client.workers.resume(worker.id, "kept")
    went_on = await counted(client, worker.id, beyond=ended)
    assert went_on[0] == secret


@pytest.mark.parametrize("network", [one for one in NETWORKS if one != "host"])
async def test_a_worker_on_another_network_moves(
    client: Client, engine: DockerEngine, network: str, tmp_path: Path
) -> None:
    worker = await start_on(client, engine, network=network)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id, "leaving")
    _, before = await last_count(client, worker.id)
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    await client.workers.delete(worker.id)
    fresh = await start_on(client, engine, network=network, start=False)
    await client.workers.import_checkpoint(fresh.id, archive, "arrived")
    await client.workers.resume(fresh.id)
    assert await counted(client, fresh.id) == (secret, before + 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"auto_remove": True}, "auto-remove"),
        ({"network": "none", "policy": {"wake_on": [8080]}}, "wake"),
    ],
)
async def test_what_would_not_resume_or_wake_is_refused(
    client: Client, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotSupported) as caught:
        await client.workers.create(image="warmboot-test/counter:1", **fields)
    assert reason in caught.value.details
    assert caught.value.resolution
    with pytest.raises(InvalidRequest, match="no network nobody-s") as missing:
        await client.workers.create(image="warmboot-test/counter:1", network="nobody-s")
    assert "docker network create nobody-s" in missing.value.resolution
    assert await client.workers.list() == []
