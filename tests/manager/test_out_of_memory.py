"""A container that the guest's kernel ended for want of memory is told as such."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.managers import Manager

from warmboot.docker.client import DockerClient
from warmboot.docker.facts import ContainerFacts
from warmboot.host.guest.guest_link import AGENT_PORT, GuestLink
from warmboot.manager.protocols import Until
from warmboot.model.errors import Conflict, ContainerError, GuestError, NotFound
from warmboot.model.vm import GuestAddress


@asynccontextmanager
async def guest_that_says(path: Path, status: str, body: object) -> AsyncIterator[GuestLink]:
    """A guest whose Docker gives one answer to everything, over a vsock-like socket."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"CONNECT %d\n" % AGENT_PORT
        writer.write(b"OK 1\n")
        await reader.readuntil(b"\r\n\r\n")
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    link = GuestLink("vm-1", GuestAddress(AGENT_PORT, vsock_socket=path), "token")
    try:
        yield link
    finally:
        await link.close()
        server.close()


def docker_state(**values: object) -> dict[str, Any]:
    state = {"Running": False, "Status": "exited", "ExitCode": 0, "OOMKilled": False, "Error": ""}
    return {
        "Id": "abc",
        "Name": "/abc",
        "Image": "sha256:1",
        "State": {"Pid": 0, "StartedAt": ""} | state | values,
        "Config": {"Image": "app:1", "Tty": False},
        "HostConfig": {"NetworkMode": "host"},
    }


async def test_dockers_word_for_it_is_understood(tmp_path: Path) -> None:
    body = docker_state(ExitCode=137, OOMKilled=True)
    async with guest_that_says(tmp_path / "s", "200 OK", body) as link:
        state = await link.docker.inspect("abc")
    assert state.oom_killed
    assert state.exit_code == 137
    assert not state.running


async def test_it_is_written_down_and_told(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DockerClient.inspect

    async def out_of_memory(docker: DockerClient, ref: str) -> ContainerFacts:
        return replace(await real(docker, ref), oom_killed=True)

    monkeypatch.setattr(DockerClient, "inspect", out_of_memory)
    await manager.create("web", "sh", "-c", "exit 137")
    ended = await manager.wait("web", Until.EXITED)
    assert ended.exit_code == 137
    assert ended.oom_killed
    event = (await manager.events_of(ended.id))[-1]
    assert event.data == {"exit_code": 137, "oom_killed": True}


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        ("404 Not Found", "No such container", NotFound),
        ("500 Internal Server Error", "boom", ContainerError),
        ("409 Conflict", "no", Conflict),
    ],
)
async def test_dockers_refusals_become_ours(
    tmp_path: Path, status: str, message: str, error: type[Exception]
) -> None:
    async with guest_that_says(tmp_path / "s", status, {"message": message}) as link:
        with pytest.raises(error):
            await link.docker.inspect("abc")


async def test_a_guest_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    link = GuestLink("vm-1", GuestAddress(AGENT_PORT, vsock_socket=tmp_path / "none"), "token")
    try:
        for ask in (link.docker.inspect, link.docker.has_image):
            with pytest.raises(GuestError):
                await ask("abc")
    finally:
        await link.close()
