"""The host's ports in the guest: its ``localhost`` leads there while an image is pulled, and
containers may reach those that were opened to them."""

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


def test_containers_may_reach_the_ports_that_were_opened_and_no_others(guest: Guest) -> None:
    guest.become()
    for _ in range(2):  # idempotent
        ask = {"ports": [5000, 65535]}
        assert guest.ask("POST", "/warmboot/v1/host-ports", ask, TOKEN)[0] == 200
    assert sorted(
        (table, chain, rule[-3], rule[-1]) for table, chain, *rule in guest.system.rules
    ) == [
        ("mangle", chain, port, "ACCEPT")
        for chain in ("FORWARD", "OUTPUT")
        for port in ("5000", "65535")
    ]
    nonsense: list[dict[str, object]] = [{}, {"ports": 80}, {"ports": [0]}, {"ports": [80, "81"]}]
    for said in [*nonsense, {"ports": [True]}]:
        assert guest.ask("POST", "/warmboot/v1/host-ports", said, TOKEN)[0] == 400
