"""PostgreSQL under load as a worker, and doctor's proof: of processes that are not root's.

Collected only where root may save such processes (CAP_SYS_RESOURCE): ``scripts/in_a_vm.py``
has a machine for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from tests.support.dockerd import CRIU_WRAPPER, PrivateDockerd
from tests.support.eventually import eventually, until
from tests.support.ports import free_port
from tests.workers.conftest import TIMEOUT_S, of_host, start_on, wait_for_line

from warmboot.client import Client
from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.setup.verification import verify
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

CLIENTS = 4
USER = 70
LISTENS = "database system is ready to accept connections"
MADE_WITHIN_S = 900.0
"""A database: seconds on a machine, minutes in an emulated VM beside other work. One that ends
instead is noticed at once.
"""
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())
SCRIPT = """
echo postgres:x:70:70::/:/bin/sh >> /etc/passwd
mkdir /database && chown 70:70 /database && exec su -s /bin/sh postgres -c '
PATH=%s:$PATH
initdb -D /database/data -A trust -U postgres -E UTF8 --locale=C --no-sync &&
exec postgres -D /database/data -p %d -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories=/database'
"""


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


async def test_doctor_proves_with_a_child_a_lock_and_another_user(engine: DockerEngine) -> None:
    verified = await verify(engine, f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}")
    assert (verified.user, verified.lock) == ("nobody", True)
    assert verified.count_after > verified.count_before


async def test_postgresql_loses_nothing_under_load(client: Client, engine: DockerEngine) -> None:
    port = free_port()
    worker = await start_on(client, engine, SCRIPT % (PROGRAMS, port), mounts=of_host())
    where = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    stored = [0] * CLIENTS

    async def connected() -> psycopg.AsyncConnection | None:
        try:
            return await psycopg.AsyncConnection.connect(where, autocommit=True)
        except psycopg.OperationalError:  # its first processes are about to start
            return None

    async def store(number: int, connection: psycopg.AsyncConnection) -> None:
        while True:
            row = (number, stored[number] + 1)
            await connection.execute("insert into stored values (%s, %s)", row)
            stored[number] += 1

    async def all_store_more() -> None:
        before = list(stored)
        more = 10
        await until(
            lambda: all(now >= was + more for now, was in zip(stored, before, strict=True)),
            "all connections go on",
            TIMEOUT_S,
        )

    try:
        await wait_for_line(client, worker.id, lambda line: LISTENS in line, MADE_WITHIN_S)
    except (AssertionError, TimeoutError) as error:
        said = b"".join([chunk async for chunk in client.workers.logs(worker.id, tail=20)])
        raise AssertionError(said.decode()) from error
    first = await eventually(connected)
    await first.execute("create table stored (client int, number int)")
    connections = [await eventually(connected) for _ in range(CLIENTS)]
    load = [asyncio.create_task(store(*each)) for each in enumerate(connections)]
    for _ in range(2):
        await all_store_more()
        pid = (await engine.inspect(worker.docker_id or "")).pid
        assert Path(f"/proc/{pid}").stat().st_uid == USER
        await client.workers.pause(worker.id)
        await client.workers.resume(worker.id)
    await all_store_more()
    for task in load:
        assert not task.done()
        task.cancel()
    await asyncio.wait(load)
    for connection in connections:
        await connection.close()
    found = await first.execute("select client, count(*), max(number) from stored group by client")
    for number, count, newest in await found.fetchall():
        assert count == newest, "each once"
        assert newest - stored[number] in (0, 1), "the one that was under way may be there"
    await first.close()
