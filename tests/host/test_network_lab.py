"""The world that the network tests live in is as they take it to be."""

from __future__ import annotations

import pytest
from tests.host.network_lab import FOREIGN_IP, HOST_IP, foreign, host, world


@pytest.mark.root
async def test_the_lab_itself_connects_host_and_foreign_host() -> None:
    async with world(), foreign.tcp_server(80, "foreign"):
        assert (await host.tcp(FOREIGN_IP, 80)).startswith(f"foreign {HOST_IP}".encode())
