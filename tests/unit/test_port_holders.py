"""Which program has a port, and which ports exclude each other."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from warmboot.host.network.ports import holders, ports
from warmboot.model.container import PortMapping
from warmboot.model.errors import Conflict

OURSELVES = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_a_listening_program_is_named(family: socket.AddressFamily) -> None:
    with socket.create_server(("", 0), family=family) as server:
        taken = PortMapping(80, server.getsockname()[1])
        assert holders.of_port(taken) == OURSELVES
    assert holders.of_port(taken) == ""


def test_a_program_that_takes_datagrams_is_named() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taker:
        taker.bind(("127.0.0.1", 0))
        taken = PortMapping(80, taker.getsockname()[1], protocol="udp")
        assert holders.of_port(taken) == OURSELVES


def test_the_refusal_names_it() -> None:
    error = ports.taken_error(PortMapping(80, 8080), "nginx (process 7)")
    assert isinstance(error, Conflict)
    assert error.brief == "port 127.0.0.1:8080/tcp is already taken on this host"
    assert error.details == "nginx (process 7) has it"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (PortMapping(80, 8080), PortMapping(90, 8080), True),
        (PortMapping(80, 8080, "0.0.0.0"), PortMapping(80, 8080, "10.0.0.1"), True),
        (PortMapping(80, 8080, "10.0.0.1"), PortMapping(80, 8080, "0.0.0.0"), True),
        (PortMapping(80, 8080, "10.0.0.1"), PortMapping(80, 8080, "10.0.0.2"), False),
        (PortMapping(80, 8080), PortMapping(80, 8080, protocol="udp"), False),
        (PortMapping(80, 8080), PortMapping(80, 8081), False),
        (PortMapping(80), PortMapping(80), False),
    ],
)
def test_ports_that_exclude_each_other(one: PortMapping, other: PortMapping, both: bool) -> None:
    assert one.overlaps(other) is both
