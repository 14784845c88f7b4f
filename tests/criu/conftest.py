"""A private engine for all tests of this folder, and containers that are gone after each test."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import pytest
from tests.support.dockerd import PrivateDockerd, private_dockerd
from tests.support.images import COUNTER as COUNT
from tests.support.images import counter_image, shell_image
from tests.support.runtime_container import Container

from warmboot.criu.runtime.folders import clear
from warmboot.criu.runtime.orders import ROOT, withdraw
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.criu.setup.settings_files import enable_tcp_established
from warmboot.docker.engine import DockerEngine
from warmboot.model.worker import WorkerSpec

COUNTER = "warmboot-test/counter:1"
LINE_TIMEOUT_S = 120.0


class Changes(TypedDict, total=False):
    """What a test's container has otherwise than a plain one."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    network: str
    tty: bool
    auto_remove: bool


class Start(Protocol):
    async def __call__(
        self,
        image: str = COUNTER,
        script: str = "",
        running: bool = True,
        **changes: Unpack[Changes],
    ) -> str: ...


@pytest.fixture(scope="session")
async def dockerd() -> AsyncIterator[PrivateDockerd]:
    enable_tcp_established(Path("/etc/criu/runc.conf"))  # runc knows no other place
    async with private_dockerd() as running:
        yield running


@pytest.fixture
async def engine(dockerd: PrivateDockerd) -> AsyncIterator[DockerEngine]:
    async with DockerEngine(dockerd.socket) as client:
        await client.load_image(counter_image(COUNTER))
        yield client


@pytest.fixture
async def start(engine: DockerEngine) -> AsyncIterator[Start]:
    """Start a container of ``image``, or of busybox running ``script``; its id."""
    made: list[str] = []

    async def starting(
        image: str = COUNTER,
        script: str = "",
        running: bool = True,
        **changes: Unpack[Changes],
    ) -> str:
        name = f"test-{secrets.token_hex(4)}"
        if script:
            image = f"warmboot-test/{name}:1"
            await engine.load_image(shell_image(image, script))
        container = await engine.create_worker(
            WorkerSpec(name, image, **changes), extra_environment={}
        )
        made.append(container)
        if running:
            await engine.start(container)
        return container

    yield starting
    for container in made:
        await engine.remove(container)


async def wait_for_line(engine: DockerEngine, container: str, wanted: Callable[[str], bool]) -> str:
    """Follow the log, from its start, until a line is as wanted."""
    async with asyncio.timeout(LINE_TIMEOUT_S):
        async for line in engine.logs(container, follow=True):
            if wanted(line.strip()):
                return line.strip()
    raise AssertionError("the container has ended")


async def counted(engine: DockerEngine, container: str, beyond: int = 0) -> tuple[str, int]:
    """The counter's secret and its first number above ``beyond``."""

    def high_enough(line: str) -> bool:
        number = line.rpartition(" ")[2]
        return number.isdigit() and int(number) > beyond

    secret, _, number = (await wait_for_line(engine, container, high_enough)).rpartition(" ")
    return secret, int(number)


async def last_count(engine: DockerEngine, container: str) -> tuple[str, int]:
    """The last thing that a stopped counter printed."""
    lines = [line.strip() async for line in engine.logs(container, tail=1)]
    secret, _, number = lines[-1].rpartition(" ")
    return secret, int(number)


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Callable[..., Container]]:
    """Starts one on the workers' runtime, without an engine, that runs a script."""
    runtime = tmp_path / "warmboot-runtime"
    await install_runtime(runtime)
    made: list[Container] = []

    def start(script: str = COUNT, python: str = "") -> Container:
        made.append(Container(runtime, tmp_path / f"c{len(made)}", script, python))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        clear(one.checkpoint.restore_work)
        one("delete", "--force")
        withdraw(one.id)
        assert not (ROOT / one.id).exists()
