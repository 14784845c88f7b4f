"""A manager on the simulated hypervisor for each test; nothing of it may be left at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, lab
from tests.support.port_network import PortNetwork
from tests.support.prepared_labs import prepare

from warmboot.bootstrap import host as wiring
from warmboot.host.network import Network
from warmboot.hypervisors import process
from warmboot.hypervisors.base import Hypervisor
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.settings import Settings


@pytest.fixture(autouse=True)
def builds_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not here: beside real VMs, a rebuild of the idle class would get nothing for minutes."""
    monkeypatch.setattr(process, "_give_way", lambda _: None)


@pytest.fixture
def port_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are published on this machine, though VMs are simulated."""

    async def network(settings: Settings, _: Hypervisor) -> Network:
        return PortNetwork(settings.storage_root)

    monkeypatch.setattr(wiring, "_network_of", network)


@pytest.fixture
async def place() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


@pytest.fixture
async def snapshot(place: Lab) -> RuntimeSnapshot:
    """One that is ready before the manager starts: to be named before ``manager``."""
    (ready,) = await prepare(place, snapshot=True)
    return ready


@pytest.fixture
async def manager(place: Lab) -> AsyncIterator[Manager]:
    """A running manager. Afterwards database and host are compared, and everything is deleted."""
    async with place.manager() as running:
        yield running
        await check(running.running)
        for container in await running.containers.list(all_states=True):
            await running.containers.delete(str(container.id), force=True)
        await check(running.running)
