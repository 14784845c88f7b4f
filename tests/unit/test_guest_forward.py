"""While an image is pulled from the host's ``localhost``, the guest's leads there."""

from __future__ import annotations

import socket

import pytest
from tests.support.guests import TOKEN, Guest, read_all


def test_host_forward_leads_to_the_gateway_while_it_is_enabled(guest: Guest) -> None:
    guest.become()
    with socket.create_server(("127.0.0.2", 0)) as registry:
        port = registry.getsockname()[1]
        ask = {"port": port, "enabled": True}
        for _ in range(2):  # idempotent
            assert guest.ask("POST", "/warmboot/v1/host-forward", ask, TOKEN)[0] == 200
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"pull")
            server, _ = registry.accept()
            with server:
                assert server.recv(4) == b"pull"
                server.sendall(b"layers")
            assert read_all(client) == b"layers"
        for _ in range(2):
            ask["enabled"] = False
            assert guest.ask("POST", "/warmboot/v1/host-forward", ask, TOKEN)[0] == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=60)


def test_host_forward_says_when_the_port_is_taken(guest: Guest) -> None:
    guest.become()
    with socket.create_server(("127.0.0.1", 0)) as other:
        ask = {"port": other.getsockname()[1], "enabled": True}
        assert guest.ask("POST", "/warmboot/v1/host-forward", ask, TOKEN)[0] == 409


@pytest.mark.parametrize(
    "ask",
    [{}, {"port": 0, "enabled": True}, {"port": 65536, "enabled": True},
     {"port": "80", "enabled": True}, {"port": 80, "enabled": 1}, {"port": True, "enabled": True}],
)  # fmt: skip
def test_host_forward_refuses_nonsense(guest: Guest, ask: dict[str, object]) -> None:
    guest.become()
    assert guest.ask("POST", "/warmboot/v1/host-forward", ask, TOKEN)[0] == 400
