"""The API over the in-memory services: in-process for most, on a real socket for streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from tests.support.fake_services import FakeServices
from tests.support.serving import port_of, serving

from warmboot.api import create_app
from warmboot.api.middleware.sock_diag import Address

LOCAL = "http://127.0.0.1"


class Peers:
    """Takes everybody for root, or, for a reason, nobody; keeps who was asked about."""

    def __init__(self, why_not: str = "") -> None:
        self.why_not = why_not
        self.asked: list[tuple[Address, Address]] = []

    async def why_not_root(self, client: Address, server: Address) -> str:
        self.asked.append((client, server))
        return self.why_not


@pytest.fixture
async def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
async def http(fakes: FakeServices) -> AsyncIterator[httpx.AsyncClient]:
    async with http_to(create_app(fakes.services, peers=Peers())) as client:
        yield client


def http_to(app: FastAPI, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url=f"{LOCAL}:18080",
        headers=headers,
    )


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """A real server on a free loopback port; its URL."""
    async with serving(app) as server:
        yield f"{LOCAL}:{port_of(server)}"


@pytest.fixture
async def url(fakes: FakeServices) -> AsyncIterator[str]:
    async with served(create_app(fakes.services)) as address:
        yield address
