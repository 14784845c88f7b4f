"""One real engine, asked as the host's and as a guest's: a container lives and fails alike."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.support.docker_ways import WAYS, client_by
from tests.support.dockerd import PrivateDockerd
from tests.support.image_names import check_names
from tests.support.images import shell_image

from warmboot.docker.client import DockerClient
from warmboot.docker.sessions import AttachedSession
from warmboot.model.errors import (
    CommandNotFound,
    Conflict,
    ContainerError,
    ImageNotFound,
    NameTaken,
    NotFound,
    RegistryUnavailable,
)
from warmboot.model.sessions import ExecSpec, LogChunk, Stream

pytestmark = [pytest.mark.docker, pytest.mark.root]

IMAGE = "warmboot-test/way:1"
SCRIPT = "echo out; read line; echo $line >&2; exit 7"
ON_HOST = {"Image": IMAGE, "OpenStdin": True, "HostConfig": {"NetworkMode": "host"}}
GENEROUS_S = 60.0


@pytest.fixture(params=WAYS)
async def client(
    dockerd: PrivateDockerd, request: pytest.FixtureRequest
) -> AsyncIterator[DockerClient]:
    async with client_by(request.param, dockerd.socket, api_version="auto") as docker:
        yield docker


def a_name() -> str:
    return f"way-{secrets.token_hex(4)}"


async def test_a_container_lives_from_its_archive_to_its_end(client: DockerClient) -> None:
    assert await client.load_image(shell_image(IMAGE, SCRIPT)) == [IMAGE]
    assert await client.has_image(IMAGE)
    container = await client.create(a_name(), ON_HOST)
    async with asyncio.timeout(GENEROUS_S):
        own = await client.attach(container, stdin=True, logs=True)
        await client.start(container)
        command = await client.exec(container, ExecSpec(("sh", "-c", "cat; exit 3"), stdin=True))
        assert isinstance(command, AttachedSession)
        await command.write(b"hello\n")
        await command.write_eof()
        assert b"".join([chunk.data async for chunk in command]) == b"hello\n"
        assert await command.exit_code() == 3
        await command.close()
        await own.write(b"bye\n")
        chunks = [chunk async for chunk in own]
        assert chunks == [LogChunk(Stream.STDOUT, b"out\n"), LogChunk(Stream.STDERR, b"bye\n")]
        assert await client.wait_stopped(container) == 7
        assert await own.exit_code() == 7
        await own.close()
        assert [chunk async for chunk in client.output(container, tail=1)] == chunks[1:]
    with pytest.raises(Conflict):
        await client.kill(container, "SIGHUP")
    with pytest.raises(ContainerError):
        await client.exec(container, ExecSpec(("true",)))
    await client.stop(container)
    await client.remove(container)
    await client.remove(container)
    with pytest.raises(NotFound):
        await client.inspect(container)


async def test_what_cannot_be_begun_is_told(client: DockerClient) -> None:
    await client.load_image(shell_image(IMAGE, SCRIPT))
    with pytest.raises(ImageNotFound):
        await client.create(a_name(), {"Image": "warmboot-test/nowhere:1"})
    container = await client.create(name := a_name(), ON_HOST | {"Cmd": ["nope"]})
    try:
        with pytest.raises(NameTaken):
            await client.create(name, ON_HOST)
        with pytest.raises(CommandNotFound, match="'nope'"):
            await client.start(container)
    finally:
        await client.remove(container)


async def test_an_image_has_as_many_names_as_it_is_given(client: DockerClient) -> None:
    await check_names(client)  # as the simulated engine


async def test_an_image_that_cannot_be_pulled_is_told(client: DockerClient) -> None:
    with pytest.raises(RegistryUnavailable, match="could not be pulled") as caught:
        await client.pull("localhost:1/app")
    assert "refused" in caught.value.details
    with pytest.raises(ImageNotFound, match="not a valid image reference"):
        await client.pull("localhost:1/App")
