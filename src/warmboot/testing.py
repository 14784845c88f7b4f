"""Fixtures for pytest: an engine a session, and of it a fork a test.

    pytest_plugins = ["warmboot.testing"]                  # in conftest.py

    def test_orders(warmboot_fork):
        docker = DockerClient(base_url=warmboot_fork.docker_host)

Override ``warmboot_engine_options`` for another engine, and ``warmboot_prepared_engine`` to have
something in it, once, that each fork then has: containers that run, with what is in their memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from warmboot.client import SyncClient
from warmboot.client.engines import Engine

TIME_TO_LIVE_S = 6 * 3600
"""An engine is removed then even if its session was killed."""


@pytest.fixture(scope="session")
def warmboot_client() -> Iterator[SyncClient]:
    """A client of this machine's manager, or of the one that ``WARMBOOT_URL`` names."""
    with SyncClient() as client:
        yield client


@pytest.fixture(scope="session")
def warmboot_engine_options() -> Mapping[str, Any]:
    """The parameters of ``engines.create`` for the session's engine; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def warmboot_engine(
    warmboot_client: SyncClient, warmboot_engine_options: Mapping[str, Any]
) -> Iterator[Engine]:
    """An engine that runs for the whole session, and is removed afterwards."""
    fields = {"time_to_live_s": TIME_TO_LIVE_S, **warmboot_engine_options}
    with warmboot_client.engines.running(**fields) as engine:
        yield engine


@pytest.fixture(scope="session")
def warmboot_prepared_engine(warmboot_engine: Engine) -> Engine:
    """The session's engine with what every test is to begin with; to be overridden."""
    return warmboot_engine


@pytest.fixture
def warmboot_fork(
    warmboot_client: SyncClient, warmboot_prepared_engine: Engine
) -> Iterator[Engine]:
    """An engine of this test's own, which goes on from the prepared one as it is now."""
    with warmboot_client.engines.forked(warmboot_prepared_engine.id) as engine:
        yield engine
