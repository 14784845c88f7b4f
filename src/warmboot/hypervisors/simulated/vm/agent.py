"""The simulated guest agent: ``/warmboot/v1/…``; everything else goes to Docker.

    unclaimed ──identity──▶ claimed ──prepare-snapshot──▶ unclaimed

Unclaimed, it lets everyone in, as the VM's maker is the only one who knows of it. Once it was given
a token, every request but ``health`` must bear it.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from warmboot.hypervisors.simulated.vm.docker.engine import Engine
from warmboot.hypervisors.simulated.vm.http import Answer, HttpError, Request, Response
from warmboot.hypervisors.simulated.vm.machine import AGENT_VERSION, Machine

PREFIX = "/warmboot/v1/"
DOCKER_WAIT_STEP_S = 0.02


class Agent:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._engine = Engine(machine)
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "health"): self._health,
            ("POST", "identity"): self._identity,
            ("POST", "docker-wait"): self._docker_wait,
            ("POST", "sandbox"): self._sandbox,
            ("POST", "warm-up"): self._warm_up,
            ("POST", "prepare-snapshot"): self._prepare_snapshot,
            ("POST", "host-forward"): self._host_forward,
            ("POST", "sync"): self._sync,
            ("GET", "simulated/memory"): self._memory,
        }

    async def handle(self, request: Request) -> Answer:
        await self._machine.clock.running()
        path = request.path.removeprefix(PREFIX)
        if (request.method, request.path) != ("GET", f"{PREFIX}health"):
            self._authorize(request)
        if request.method != "GET":
            await self._machine.write()
        if path == request.path:
            return await self._engine.handle(request)
        if (request.method, path) in self._routes:
            return await self._routes[request.method, path](request)
        if path in {known for _, known in self._routes}:
            raise HttpError(405, f"{request.method} is not allowed here")
        raise HttpError(404, f"no such request: {path}")

    def _authorize(self, request: Request) -> None:
        token = self._machine.ram["token"]
        if token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HttpError(401, "the token is missing or wrong")

    async def _health(self, request: Request) -> Response:
        return Response(
            json={
                "version": AGENT_VERSION,
                "claimed": self._machine.ram["token"] is not None,
                "docker": self._machine.docker_ready(),
                "uptime_s": self._machine.clock.now(),
            }
        )

    async def _identity(self, request: Request) -> Response:
        body = await request.json()
        ram, steps = self._machine.ram, _Steps()
        token, hostname = _text(body, "token"), _text(body, "hostname")
        machine_id, entropy = _text(body, "machine_id"), _text(body, "entropy")
        if not isinstance(body.get("clock_ns"), int):
            raise HttpError(400, "clock_ns: a whole number is expected")
        docker_wait_s = _seconds(body, "docker_wait_s", 0.0)
        ram["entropy"] = entropy
        steps.done("entropy")
        steps.done("clock")
        ram["machine_id"] = machine_id
        steps.done("machine-id")
        ram["hostname"] = hostname
        steps.done("hostname")
        ram["token"] = token
        steps.done("token")
        docker = await self._docker_comes(docker_wait_s)
        return Response(json={"steps": steps.taken, "docker": docker, "version": AGENT_VERSION})

    async def _docker_wait(self, request: Request) -> Response:
        timeout_s = _seconds(await request.json(), "timeout_s", 60.0)
        docker = await self._docker_comes(timeout_s)
        if not docker["answers"]:
            raise HttpError(504, f"Docker did not answer within {timeout_s:g} s")
        return Response(json=docker)

    async def _docker_comes(self, timeout_s: float) -> dict[str, Any]:
        began = time.monotonic()
        answers = False
        while not answers and (left := began + timeout_s - time.monotonic()) > 0:
            answers = self._machine.docker_ready()
            if not answers:  # in small steps: the fault may be lifted while we wait
                await asyncio.sleep(min(left, DOCKER_WAIT_STEP_S))
        return {"answers": answers, "waited_s": time.monotonic() - began}

    async def _warm_up(self, request: Request) -> Response:
        if not self._machine.docker_ready():
            raise HttpError(503, "Docker does not answer yet")
        self._engine.add_probe_image()
        return Response(json={"steps": [{"name": "warm-up", "duration_s": 0.0}]})

    async def _sandbox(self, request: Request) -> Response:
        if not self._machine.docker_ready():
            raise HttpError(503, "Docker does not answer yet")
        return Response(json={})

    async def _prepare_snapshot(self, request: Request) -> Response:
        self._machine.ram |= {"token": None, "hostname": "warmboot", "machine_id": ""}
        return Response(json={"steps": [{"name": "forget-identity", "duration_s": 0.0}]})

    async def _host_forward(self, request: Request) -> Response:
        self._machine.ram["host_forward"] = await request.json()
        return Response(json={"steps": []})

    async def _sync(self, request: Request) -> Response:
        return Response(json={"steps": [{"name": "sync", "duration_s": 0.0}]})

    async def _memory(self, request: Request) -> Response:
        """What tests want to see of the RAM: a value drawn at boot, and who the guest is."""
        seen = ("boot_value", "counter", "hostname", "machine_id", "entropy", "engine_id")
        return Response(json={name: self._machine.ram.get(name) for name in seen})


class _Steps:
    """What was done so far, and how long each took."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self._since = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.taken.append({"name": name, "duration_s": now - self._since})
        self._since = now


def _seconds(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise HttpError(400, f"{name}: a number is expected")
    return value


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise HttpError(400, f"{name}: a text is expected")
    return value
