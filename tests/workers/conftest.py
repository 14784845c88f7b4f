"""One private engine for all tests of this folder, and a manager with its API over it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.support.dockerd import PrivateDockerd, private_dockerd
from tests.support.images import counter_image, shell_image
from tests.support.ports import free_port
from tests.support.served import Served, served, worker_settings

from warmboot.client import Client
from warmboot.client.worker_results import Worker
from warmboot.criu.setup.findings import can_save_other_users
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.criu.setup.settings_files import enable_tcp_established
from warmboot.docker.engine import DockerEngine

collect_ignore = [] if os.environ.get("WARMBOOT_OWN_NETWORK") else ["test_worker_bridges.py"]
if not can_save_other_users():
    collect_ignore.append("test_worker_postgres.py")

COUNTER = "warmboot-test/counter:1"
TIMEOUT_S = 120.0
"""Longer than anything takes beside real VMs on two CPUs."""


class Start(Protocol):
    async def __call__(self, script: str = "", image: str = COUNTER, **fields: Any) -> Worker: ...


@contextlib.asynccontextmanager
async def dockerd_with_runtime(folder: Path, **settings: Any) -> AsyncIterator[PrivateDockerd]:
    """One that has the runtime of workers, and no experimental mode."""
    runtime = folder / "warmboot-runtime"
    await install_runtime(runtime)
    runtimes = {"warmboot": {"path": str(runtime)}}
    async with private_dockerd(experimental=False, runtimes=runtimes, **settings) as running:
        async with DockerEngine(running.socket) as engine:
            await engine.load_image(counter_image(COUNTER))
        yield running


@pytest.fixture(scope="session")
async def dockerd() -> AsyncIterator[PrivateDockerd]:
    enable_tcp_established(Path("/etc/criu/runc.conf"))  # runc knows no other place
    async with private_dockerd() as running:
        async with DockerEngine(running.socket) as engine:
            await engine.load_image(counter_image(COUNTER))
        yield running


@pytest.fixture(scope="session")
async def runtime_dockerd(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[PrivateDockerd]:
    """With the runtime of workers, and not in experimental mode."""
    async with dockerd_with_runtime(tmp_path_factory.mktemp("runtime")) as running:
        yield running


@pytest.fixture
async def engine(dockerd: PrivateDockerd) -> AsyncIterator[DockerEngine]:
    async with DockerEngine(dockerd.socket) as client:
        yield client


@pytest.fixture
async def it(dockerd: PrivateDockerd, tmp_path: Path) -> AsyncIterator[Served]:
    """A manager that ends, with all its workers, when the test does."""
    async with served(worker_settings(tmp_path / "s", dockerd.socket, free_port())) as running:
        yield running
        await remove_all(running.client)


@pytest.fixture
async def client(it: Served) -> Client:
    return it.client


@pytest.fixture
async def start(client: Client, engine: DockerEngine) -> Start:
    """Start a worker that counts, or runs ``script`` in busybox; it runs when this returns."""

    async def starting(script: str = "", image: str = COUNTER, **fields: Any) -> Worker:
        return await start_on(client, engine, script, image, **fields)

    return starting


async def start_on(
    client: Client, engine: DockerEngine, script: str = "", image: str = COUNTER, **fields: Any
) -> Worker:
    name = fields.pop("name", f"w-{secrets.token_hex(4)}")
    if script:
        image = f"warmboot-test/{name}:1"
        await engine.load_image(shell_image(image, script))
    worker_id = await client.workers.create(image=image, name=name, **fields)
    worker = await client.workers.wait(worker_id, "settled", TIMEOUT_S)
    assert worker.error is None, worker.error
    return worker


def of_host() -> list[dict[str, str | bool]]:
    """Mounts by which a worker has the programs of this machine."""
    folders = (
        "/usr",
        "/lib",
        "/lib64",
        "/etc/alternatives",
        *map(str, Path("/etc").glob("java-*")),
    )
    return [
        {"source": path, "target": path, "read_only": True}
        for path in folders
        if Path(path).exists()
    ]


async def remove_all(client: Client) -> None:
    for worker in await client.workers.list():
        await client.workers.delete(worker.id, force=True)


async def lines(client: Client, ref: str) -> list[str]:
    written = b"".join([chunk async for chunk in client.workers.logs(ref)])
    return written.decode().splitlines()


async def wait_for_line(
    client: Client, ref: str, wanted: Callable[[str], bool], timeout_s: float = TIMEOUT_S
) -> str:
    """Follow the log, from its start, until a whole line is as wanted."""
    rest = ""
    async with asyncio.timeout(timeout_s):
        async with contextlib.aclosing(client.workers.logs(ref, follow=True)) as chunks:
            async for chunk in chunks:
                *whole, rest = (rest + chunk.decode()).split("\n")
                for line in whole:
                    if wanted(line.strip()):
                        return line.strip()
    raise AssertionError("the worker has ended")


def parsed(line: str) -> tuple[str, int]:
    secret, _, number = line.strip().rpartition(" ")
    return secret, int(number)


async def counted(client: Client, ref: str, beyond: int = 0) -> tuple[str, int]:
    """The counter's secret and its first number above ``beyond``."""
    return parsed(await wait_for_line(client, ref, lambda line: parsed(line)[1] > beyond))


async def last_count(client: Client, ref: str) -> tuple[str, int]:
    return parsed((await lines(client, ref))[-1])


async def nth_line(client: Client, ref: str, number: int) -> str:
    """The one with that number, counted from 0, as soon as it is there."""
    before = itertools.count()
    return await wait_for_line(client, ref, lambda _: next(before) == number)


async def goes_on(client: Client, ref: str, secret: str) -> None:
    """It counts on with its memory: no number is left out or there twice."""
    await nth_line(client, ref, len(await lines(client, ref)))
    found = [parsed(line) for line in await lines(client, ref)]
    assert found == [(secret, number) for number in range(1, len(found) + 1)]


async def events_of(client: Client, worker_id: str, kind: str) -> list[Mapping[str, Any]]:
    """What the worker's events of that kind say, the newest last."""
    events = await client.events.list(0, 1000)
    return [event.data for event in events if (event.subject_id, event.kind) == (worker_id, kind)]


async def event_kinds(client: Client, worker_id: str) -> list[str]:
    events = await client.events.list(0, 1000)
    return [event.kind for event in events if event.subject_id == worker_id]
