"""A worker on a bridge: it gets another address there, and its connections are closed.

Collected only where the host's network is the tests' own (``scripts/with_docker_of.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.images import COUNTER
from tests.workers.conftest import counted, dockerd_with_runtime, goes_on, start_on

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

GATEWAY = "172.17.0.1"


@pytest.fixture(scope="module")
async def dockerd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateDockerd]:
    folder = tmp_path_factory.mktemp("runtime")
    async with dockerd_with_runtime(folder, bridge="", iptables=True) as running:
        yield running


async def test_on_a_bridge_connections_are_closed_and_a_new_address_is_taken(
    client: Client, engine: DockerEngine
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    held = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await heard.put(await reader.readline())

    async with asyncio.timeout(120), await asyncio.start_server(hear, "0.0.0.0", 9999):
        talk = f"echo hello | nc -w 1000 {GATEWAY} 9999 2> /dev/null; sleep 0.1"
        script = f"{COUNTER} & while true; do {talk}; done"
        worker = await start_on(client, engine, script, network="bridge")
        assert await heard.get() == b"hello\n"
        secret, _ = await counted(client, worker.id)
        for _ in range(2):
            await client.workers.pause(worker.id)
            await start_on(client, engine, network="bridge")  # takes its address
            assert heard.empty(), "it has held one connection"
            await client.workers.resume(worker.id)
            assert await heard.get() == b"hello\n", "it has noticed, and has connected again"
            await goes_on(client, worker.id, secret)
        for writer in held:
            writer.close()
