"""The link to a guest agent, and through it to Docker in the guest.

HTTP connections lead to the agent's port, over TCP from inside the VM's network
namespace or over a vsock socket (``GuestAddress`` says which). Paths under ``/warmboot/`` are the
agent's own; a connection that begins with any other is handed to Docker.

    GuestLink ── GuestConnector ── (namespace TCP | vsock CONNECT) ── agent ── docker.sock
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import aiohttp

from warmboot.docker.client import DockerClient
from warmboot.docker.requests import MOST_CALLS
from warmboot.host.guest.guest_connections import (
    GuestConnector,
    Room,
    docker_in_guest,
)
from warmboot.host.guest.guest_socket import CONNECT_TIMEOUT_S
from warmboot.model.errors import DockerNotReady, GuestError, GuestUnreachable
from warmboot.model.tenants.boot import StageStep
from warmboot.model.tenants.registry_mirror import RegistryMirror
from warmboot.model.vm import GuestAddress

AGENT_PORT = 1024
ENTROPY_BYTES = 64
RETRY_INTERVAL_S = 0.02
POOLED_KEEP_ALIVE_S = 3600.0
"""How long a VM may be in the warm pool, paused, and be met on the connection that it had."""

LONGEST_CALL_S = 600.0
"""The most that a guest agent waits for Docker in one call; it refuses to wait longer."""

PULSE_TIMEOUT_S = 300.0
"""The most for a connection that only asks whether there is somebody."""

MOST_SESSIONS = 256
"""Execs, attached clients and followed logs of one VM."""

MOST_READERS = 64
"""Clients that read a log to its end: a few of them would do, but one may be slow to read."""

STARTING_AT_ONCE = 8
"""Sessions of one VM that are being begun; the others wait for their turn."""


Sent = Callable[[], None]


def nobody_asks() -> None:
    """Nobody wants to know when a request has been sent."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a restored VM its own self. ``machine_id``: 32 hex digits."""

    hostname: str
    machine_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """How a guest became its own self, and how long it then waited for Docker, and if that came."""

    steps: list[StageStep]
    docker_waited_s: float
    docker_answers: bool


class GuestLink:
    """The connection to one VM's guest agent. ``close`` when done; the VM goes on."""

    def __init__(self, vm_id: str, address: GuestAddress, token: str) -> None:
        self.vm_id = vm_id
        self.token = token
        self._address = address
        # Apart from Docker's: a connection that the agent has handed to Docker stays there.
        self._session = aiohttp.ClientSession(
            connector=GuestConnector(address, POOLED_KEEP_ALIVE_S, CONNECT_TIMEOUT_S, MOST_CALLS),
            trace_configs=[_telling_when_sent()],
        )
        self.docker = self._docker()
        """Docker in the guest."""
        self.sessions = Room(vm_id, MOST_SESSIONS, "sessions")
        self.readers = Room(vm_id, MOST_READERS, "readers of its log")
        self.starting = asyncio.Semaphore(STARTING_AT_ONCE)
        """Held while a session is begun."""

    def _docker(self) -> DockerClient:
        return DockerClient(docker_in_guest(self.vm_id, self._address, self.token))

    @cached_property
    def _pulse(self) -> aiohttp.ClientSession:
        """Its connection may take as long as a call has: a busy guest takes seconds for it."""
        connector = GuestConnector(self._address, POOLED_KEEP_ALIVE_S, PULSE_TIMEOUT_S, 1)
        return aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        await self.docker.close()
        if (pulse := self.__dict__.pop("_pulse", None)) is not None:
            await pulse.close()
        await self._session.close()

    async def use_token(self, token: str) -> None:
        """Show another one from now on; the connection to the agent stays."""
        former, self.token = self.docker, token
        self.docker = self._docker()
        await former.close()

    async def claim(
        self,
        identity: Identity,
        timeout_s: float,
        docker_wait_s: float = 0.0,
        on_sent: Sent = nobody_asks,
    ) -> Claimed:
        """Give the guest its identity, as soon as its agent answers; the token is ours then.

        One that was frozen in use is its former owner's, whose token we show, and becomes another.
        It waits for Docker, too, before it answers, but not longer than ``docker_wait_s``.
        ``on_sent`` is called when the guest has its identity, and is at work.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                left_s = max(CONNECT_TIMEOUT_S, deadline - time.monotonic())
                body = _identity_body(identity)
                if identity.token != self.token:
                    body["fork"] = True
                if docker_wait_s:
                    body["docker_wait_s"] = docker_wait_s
                answer = await self._call("identity", body, left_s + docker_wait_s, on_sent)
                return _claimed(answer)
            except GuestUnreachable:
                if time.monotonic() >= deadline:
                    raise
                # The agent is not up yet, and nothing tells when: it has no way to call us.
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def health(self, timeout_s: float = 5) -> dict[str, Any]:
        return await self._request("GET", "health", None, timeout_s)

    async def pulse(self, timeout_s: float) -> None:
        """Return when the agent has answered, whatever; ``GuestUnreachable`` if it has not."""
        try:
            await self._request("GET", "health", None, timeout_s, session=self._pulse)
        except GuestUnreachable:
            raise
        except GuestError:
            return

    async def wait_for_docker(self, timeout_s: float) -> None:
        """Return when Docker in the guest has answered a ping; ``DockerNotReady`` if it has not."""
        deadline = time.monotonic() + timeout_s
        while True:
            began = time.monotonic()
            wait_s = min(deadline - began, LONGEST_CALL_S)
            try:
                await self._call("docker-wait", {"timeout_s": wait_s}, timeout_s=wait_s + 5)
                return
            except GuestError as error:
                if began + wait_s <= time.monotonic() < deadline:  # not refused: it has waited
                    continue
                raise DockerNotReady(
                    f"Docker in {self.vm_id} did not answer",
                    details=error.details or error.brief,
                    resolution="`warmboot logs --boot CONTAINER` shows the guest's console",
                ) from error

    async def warm_up(self) -> None:
        """Run a throw-away container, so that a snapshot has the runtime in its page cache."""
        await self._call("warm-up", {}, timeout_s=300)

    async def ensure_sandbox(self) -> None:
        """Make the network that a container joins (``SANDBOX``), if it is not there."""
        await self._call("sandbox", {}, timeout_s=120)

    async def hand_over(self, labels: Sequence[str], mirror: RegistryMirror | None) -> None:
        """Leave nothing of ours in its Docker, of which ``docker info`` tells these ``labels``, and
        which pulls from ``mirror``."""
        if mirror is not None and mirror.host_port is not None:
            await self.host_forward(mirror.host_port, True)
        body = {"labels": list(labels), **_mirror_body(mirror)}
        await self._call("hand-over", body, timeout_s=120)

    async def use_mirror(self, mirror: RegistryMirror) -> None:
        await self._call("registries", _mirror_body(mirror), timeout_s=60)

    async def grow_disk(self, size_bytes: int) -> None:
        """Have its file system fill a disk that has grown to so many bytes."""
        await self._call("grow-disk", {"size_bytes": size_bytes}, timeout_s=120)

    async def disk(self) -> tuple[int, int]:
        """The bytes of its writable file system, and how many of them are in use."""
        answer = await self._request("GET", "disk", None, timeout_s=10)
        return int(answer["size_bytes"]), int(answer["used_bytes"])

    async def prepare_snapshot(self, wake_docker: bool = True) -> None:
        """Make the guest ready to be frozen; it can be claimed anew after its restore.

        ``wake_docker``: from the first moment on, Docker is to be pinged until that.
        """
        await self._call("prepare-snapshot", {"wake_docker": wake_docker}, timeout_s=60)

    async def host_forward(self, port: int, enabled: bool) -> None:
        """While enabled, ``localhost:port`` in the guest is the host's."""
        await self._call("host-forward", {"port": port, "enabled": enabled}, timeout_s=30)

    async def let_reach_host(self, ports: Sequence[int]) -> None:
        """What runs in it may reach these of the host's ports, as far as the host leads there."""
        await self._call("host-ports", {"ports": list(ports)}, timeout_s=60)

    async def mount_folders(self, ids: Sequence[str]) -> None:
        """Have the host's folders with these ids be in it, which are served at its gateway."""
        await self._call("folders", {"folders": list(ids)}, timeout_s=120)

    async def sync(self) -> None:
        await self._call("sync", {}, timeout_s=60)

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def _call(
        self, what: str, body: dict[str, Any], timeout_s: float, on_sent: Sent = nobody_asks
    ) -> dict[str, Any]:
        return await self._request("POST", what, body, timeout_s, on_sent)

    async def _request(
        self,
        method: str,
        what: str,
        body: dict[str, Any] | None,
        timeout_s: float,
        on_sent: Sent = nobody_asks,
        session: aiohttp.ClientSession | None = None,
    ) -> dict[str, Any]:
        try:
            async with (session or self._session).request(
                method,
                f"http://guest/warmboot/v1/{what}",
                json=body,
                headers=self._authorization,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                trace_request_ctx=on_sent,
            ) as response:
                if response.status == 200:
                    return cast(dict[str, Any], await response.json(content_type=None))
                raise GuestError(
                    f"the guest agent of {self.vm_id} refused {what}",
                    details=f"{response.status}: {(await response.text())[:500]}",
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise GuestUnreachable(
                f"the guest agent of {self.vm_id} does not answer",
                details=f"{what}: {error!r}",
                resolution="`warmboot logs --boot CONTAINER` shows the guest's console",
            ) from error


def _telling_when_sent() -> aiohttp.TraceConfig:
    """Calls what a request has as its ``trace_request_ctx`` when its body has been written."""

    async def tell(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx()

    config = aiohttp.TraceConfig()
    config.on_request_chunk_sent.append(tell)
    return config


def _mirror_body(mirror: RegistryMirror | None) -> dict[str, list[str]]:
    if mirror is None:
        return {}
    return {"mirrors": [mirror.in_guest], "plain_registries": list(mirror.plain)}


def _claimed(answer: dict[str, Any]) -> Claimed:
    steps = [StageStep(step["name"], step["duration_s"]) for step in answer["steps"]]
    docker = answer.get("docker", {"answers": False, "waited_s": 0.0})  # an older agent's
    return Claimed(steps, docker["waited_s"], docker["answers"])


def _identity_body(identity: Identity) -> dict[str, Any]:
    # The clock is read at the last moment: what it loses is the way into the guest.
    return {
        "hostname": identity.hostname,
        "machine_id": identity.machine_id,
        "token": identity.token,
        "entropy": base64.b64encode(os.urandom(ENTROPY_BYTES)).decode(),
        "clock_ns": time.time_ns(),
    }
