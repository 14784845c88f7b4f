"""A worker on a bridge: it gets another address there, and its connections are closed.

On one that somebody has created, it finds others by their names, and is found.

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
from warmboot.client.worker_results import Worker
from warmboot.docker.engine import DockerEngine
from warmboot.model.sessions import ExecSpec
from warmboot.system.programs import run_program

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


async def test_on_a_network_of_one_s_own_it_finds_others_and_is_found_by_name(
    client: Client, dockerd: PrivateDockerd, engine: DockerEngine
) -> None:
    own = "wb-own"
    await run_program("docker", "--host", f"unix://{dockerd.socket}", "network", "create", own)
    serving = "while true; do echo hello | nc -l -p 9000; done"
    other = await start_on(client, engine, serving, network=own, name="other")
    ask = "nc -w 5 other 9000 > /got 2> /dev/null && mv /got /heard"
    asking = f"{COUNTER} & while true; do {ask}; sleep 0.1; done"
    worker = await start_on(client, engine, asking, network=own, name="asker")
    secret, _ = await counted(client, worker.id)
    for _ in range(2):
        await client.workers.pause(worker.id)
        await client.workers.pause(other.id)
        await start_on(client, engine, network=own)  # takes an address
        await client.workers.resume(worker.id)
        await client.workers.resume(other.id)
        await _run_in(engine, worker, "rm -f /heard; until grep hello /heard; do sleep 0.1; done")
        await _run_in(engine, other, "nslookup asker 127.0.0.11")
        await goes_on(client, worker.id, secret)
    for one in await client.workers.list():
        await client.workers.delete(one.id, force=True)


async def _run_in(engine: DockerEngine, worker: Worker, script: str) -> None:
    async with asyncio.timeout(60):
        told = await engine.exec(worker.docker_id or "", ExecSpec(("sh", "-c", script)))
        output = b"".join([chunk.data async for chunk in told])
        code = await told.exit_code()
        await told.close()
    assert code == 0, output
