"""Addresses of this host's loopback that are engines' own: chosen at create, free after delete."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

from warmboot.host.agent import HostAgent
from warmboot.model.errors import HostError
from warmboot.model.tenants.engine import Engine
from warmboot.store import Store


class OwnAddresses:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host
        self._choosing = asyncio.Lock()
        self._last: int | None = None

    @contextlib.asynccontextmanager
    async def free_one(self) -> AsyncIterator[str]:
        """One that no engine has, while the caller stores it; empty where nothing is published.

        ``HostError`` when all are given.
        """
        async with self._choosing:
            yield await self._choose()

    async def ensure(self, engine: Engine) -> Engine:
        """The engine with an address that can be led: an earlier release gave it none, or the
        manager's subnet is another one now."""
        network = self._host.vms.engine_network
        if network is None or (engine.address and IPv4Address(engine.address) in network):
            return engine
        async with self.free_one() as address:
            await self._store.engines.update(engine.id, address=address)
        return await self._store.engines.get(engine.id)

    async def _choose(self) -> str:
        """The next one in turn, so that one just given back rests as long as possible."""
        network = self._host.vms.engine_network
        if network is None:
            return ""
        taken = {engine.address for engine in await self._store.engines.list()}
        most = network.num_addresses - 2  # the first and the last are no host's
        start = random.randrange(most) if self._last is None else self._last
        for step in range(most):
            index = (start + step) % most + 1
            if (address := str(network[index])) not in taken:
                self._last = index
                return address
        raise HostError(
            f"all {most} addresses for engines are given",
            details=f"the network {network}, which follows from the manager's subnet, has no more",
            resolution="remove engines that are not needed any more, or give the manager a larger "
            "subnet",
        )
