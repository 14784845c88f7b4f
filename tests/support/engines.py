"""Engines of a manager on the simulated hypervisor, and a client at their sockets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
from tests.support.managers import TIMEOUT_S, Manager

from warmboot.manager.protocols import Engines, EngineUntil
from warmboot.model.errors import NotFound
from warmboot.model.tenants.engine import Engine, EngineSpec


def engines_of(m: Manager) -> Engines:
    assert m.services.engines is not None
    return m.services.engines


async def create(m: Manager, name: str = "ci", **fields: Any) -> Engine:
    """An engine that runs, or has failed."""
    await m.image()
    spec = EngineSpec(name, os.geteuid(), **fields)
    engine_id = await engines_of(m).create(spec)
    return await engines_of(m).wait(str(engine_id), EngineUntil.RUNNING, TIMEOUT_S)


async def gone(m: Manager, engine: Engine) -> bool:
    with contextlib.suppress(NotFound):
        await engines_of(m).get(str(engine.id))
        return False
    return True


def docker(engine: Engine) -> contextlib.AbstractAsyncContextManager[httpx.AsyncClient]:
    """A client of Docker's API at the engine's socket."""
    return docker_at(engine.socket)


@contextlib.asynccontextmanager
async def docker_at(socket: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://docker", timeout=TIMEOUT_S
    ) as client:
        yield client


async def create_container(
    client: httpx.AsyncClient,
    name: str,
    ports: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    **host: Any,
) -> httpx.Response:
    """One that sleeps; Docker's answer."""
    pull = {"fromImage": "busybox", "tag": "latest"}
    await client.post("/images/create", params=pull)
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "1000"],
        "HostConfig": {"PortBindings": ports or {}, **host},
    }
    return await client.post("/containers/create", params={"name": name}, json=body)
