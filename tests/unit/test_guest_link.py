"""The host's side of the conversation with a guest agent: what it asks, and makes of answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from warmboot.host.guest.guest_link import AGENT_PORT, Claimed, GuestLink, Identity
from warmboot.model.tenants.boot import StageStep
from warmboot.model.vm import GuestAddress

IDENTITY = Identity("brisk-otter", "0" * 32, "t0ken-t0ken-t0ken")
STEPS = [{"name": "clock", "duration_s": 0.5}]


class Agent:
    """Gives one answer to everything, and notes what it was asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()  # CONNECT
        writer.write(b"OK 1\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        self.asked.append(json.loads(await reader.readexactly(length)))
        body = json.dumps(self.answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.read()
        writer.close()


@contextlib.asynccontextmanager
async def link_to(agent: Agent, path: Path) -> AsyncIterator[GuestLink]:
    server = await asyncio.start_unix_server(agent.serve, path)
    link = GuestLink("vm-1", GuestAddress(AGENT_PORT, vsock_socket=path), IDENTITY.token)
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def test_an_identity_asks_for_docker_too(tmp_path: Path) -> None:
    agent = Agent({"steps": STEPS, "docker": {"answers": True, "waited_s": 0.25}})
    sent: list[bool] = []
    async with link_to(agent, tmp_path / "s") as link:
        claimed = await link.claim(IDENTITY, 5, 2.0, lambda: sent.append(True))
    assert claimed == Claimed([StageStep("clock", 0.5)], 0.25, True)
    assert agent.asked[0]["docker_wait_s"] == 2.0
    assert sent == [True]


async def test_an_agent_that_does_not_tell_of_docker_is_asked_again(tmp_path: Path) -> None:
    """One of an image that was built before identities could wait for it."""
    async with link_to(Agent({"steps": STEPS}), tmp_path / "s") as link:
        claimed = await link.claim(IDENTITY, 5, 2.0)
    assert claimed == Claimed([StageStep("clock", 0.5)], 0.0, False)
