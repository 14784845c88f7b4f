"""What a container's program is started with: a real manager on the simulated hypervisor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import WARMBOOT
from tests.support.managers import image_folder, lab
from tests.support.ports import free_port
from tests.support.served import Served, served

from warmboot.client import Client
from warmboot.docker.tiny_image import image_archive
from warmboot.model.errors import InvalidRequest

OF_IMAGE = ["HOSTNAME=of-the-image", "COLOUR=red", "SHAPE=round"]
KIB = 1024

Run = Callable[..., Awaitable[tuple[int, bytes, str]]]


@pytest.fixture(scope="module")
async def manager() -> AsyncIterator[Served]:
    async with lab() as place, served(place.settings(port=free_port())) as it:
        await it.client.images.register("default", path=str(await image_folder()))
        yield it


@pytest.fixture
async def at(manager: Served) -> AsyncIterator[Served]:
    yield manager
    for container in await manager.client.containers.list(all_states=True):
        await manager.client.containers.delete(container.id, force=True)


@pytest.fixture
def client(at: Served) -> Client:
    return at.client


@pytest.fixture
def run(at: Served) -> Run:
    """``warmboot …``; its exit code, output and errors."""

    async def typed(*words: str, **env: str) -> tuple[int, bytes, str]:
        process = await asyncio.create_subprocess_exec(
            *(*WARMBOOT, *words),
            env={**os.environ, "WARMBOOT_URL": at.url, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode is not None
        return process.returncode, out, err.decode()

    return typed


@pytest.fixture
def archive(tmp_path: Path) -> str:
    file = tmp_path / "image.tar"
    file.write_bytes(image_archive("coloured:1", {}, {}, ["env"], OF_IMAGE))
    return str(file)


def variables(output: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.decode().splitlines())


async def test_the_images_own_host_name_variable_wins_over_the_containers_name(
    run: Run, archive: str
) -> None:
    _, out, _ = await run("run", "--name", "box", "--archive", archive, "coloured:1", "env")
    assert variables(out)["HOSTNAME"] == "of-the-image"
    _, out, _ = await run("run", "-e", "HOSTNAME=mine", "--archive", archive, "coloured:1", "env")
    assert variables(out)["HOSTNAME"] == "mine"
    _, out, _ = await run("run", "--name", "named", "busybox", "env")
    assert variables(out)["HOSTNAME"] == "named"


async def test_an_unset_name_takes_the_images_value_away(run: Run, archive: str) -> None:
    words = ("-e", "COLOUR", "-e", "HOSTNAME", "--archive", archive, "coloured:1", "env")
    _, out, _ = await run("run", *words)
    assert variables(out).keys() & {"COLOUR", "HOSTNAME", "SHAPE"} == {"SHAPE"}
    _, out, _ = await run("run", *words, COLOUR="blue")
    assert variables(out)["COLOUR"] == "blue"
    await run("run", "-d", "--name", "c", "--archive", archive, "coloured:1", "sleep", "1000")
    _, out, _ = await run("exec", "-e", "SHAPE", "c", "env")
    assert variables(out).keys() & {"COLOUR", "SHAPE"} == {"COLOUR"}


async def test_any_name_without_an_equals_sign_arrives(run: Run) -> None:
    values = dict.fromkeys(["Logging:LogLevel:Default", "1X", "a.b-c", "with blank", "ä"], "v=1")
    given = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
    code, out, err = await run("run", "--name", "c", *given, "busybox", "env")
    found = variables(out)
    assert (code, {name: found.get(name) for name in values}) == (0, values), err


async def test_much_arrives(client: Client, run: Run) -> None:
    many = [str(number) for number in range(5000)]
    _, out, err = await run("run", "busybox", "echo", *many)
    assert out.decode().split() == many, err
    large = {f"N{number}": "x" * 5 * KIB for number in range(300)} | {"ONE": "y" * 100 * KIB}
    made = await client.containers.create(image="busybox", command=["env"], environment=large)
    container = await client.containers.wait(made, "exited")
    assert container.raw["environment"] == large


async def test_much_arrives_of_what_json_writes_with_six_characters(client: Client) -> None:
    words = ["\x01" * 127 * KIB] * 8
    settings = {f"N{number}": "\x1b" * 127 * KIB for number in range(8)}
    made = await client.containers.create(
        image="busybox", command=["sleep", "1000", *words], environment=settings
    )
    container = await client.containers.wait(made, "running")
    assert (container.raw["command"][2:], container.raw["environment"]) == (words, settings)
    async with client.containers.exec(made, ["echo", *words, *words[:7]]) as session:
        said = b"".join([chunk.data async for chunk in session])
    assert said.decode().split() == [*words, *words[:7]]


@pytest.mark.parametrize(
    ("body", "brief"),
    [
        ({"command": ["echo", "é" * 64 * KIB]}, "argument 2 is too long"),
        ({"environment": {"BIG": "é" * 64 * KIB}}, "environment variable 1 (BIG) is too long"),
        (
            {"environment": {f"N{n}": "x" * 100 * KIB for n in range(21)}},
            "the arguments and the environment are too large together",
        ),
    ],
    ids=["argument", "variable", "together"],
)
async def test_more_than_linux_takes_is_refused_in_a_sentence(
    client: Client, body: dict[str, Any], brief: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.containers.create(image="busybox", **body)
    assert refused.value.brief == brief
    assert "Linux" in refused.value.details
    assert refused.value.resolution
    assert await client.containers.list(all_states=True) == []


@pytest.mark.parametrize(
    "body",
    [{"command": ["echo", "x" * 128 * KIB]}, {"environment": {"BIG": "x" * 128 * KIB}}],
    ids=["argument", "variable"],
)
async def test_what_the_schema_refuses_first_is_said_with_the_limit(
    client: Client, body: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="is not valid") as refused:
        await client.containers.create(image="busybox", **body)
    assert "at most 1310" in refused.value.details
    assert "has 131072" in refused.value.details
