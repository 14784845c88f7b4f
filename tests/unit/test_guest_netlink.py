"""The guest's neighbours and TCP connections, on this kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmboot.guest import netlink
from warmboot.guest.netlink import TcpConnection

ANY, ANY_IPV4 = ("::", 0), ("127.0.0.1", 0)
MAPPED = bytes(10) + b"\xff\xff"


@contextlib.contextmanager
def connected(listener: socket.socket, host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """From a port that is bound, as others that only connect could have the same one, too."""
    there = host, listener.getsockname()[1]
    with socket.create_connection(there, timeout=60, source_address=(host, 0)) as client:
        served, _ = listener.accept()
        served.settimeout(60)
        with served:
            yield client, served


def ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    raise AssertionError("it was closed in good order")


@pytest.mark.root
def test_a_connection_is_reset_and_others_stay() -> None:
    with (
        socket.create_server(ANY, family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        connected(listener, "127.0.0.1") as (mapped, _),
        connected(listener, "::1") as (kept, kept_served),
    ):
        ending: int = mapped.getsockname()[1]
        ports = {ending, *(sock.getsockname()[1] for sock in (kept, listener))}
        seen: set[TcpConnection] = set()

        def is_to_end(connection: TcpConnection) -> bool:
            if connection.local_port not in ports:  # somebody else's
                return False
            seen.add(connection)
            return connection.local_port == ending

        netlink.reset_connections(is_to_end)
        one, six = socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")
        port = listener.getsockname()[1]
        assert seen == {
            TcpConnection(ending, one),
            TcpConnection(kept.getsockname()[1], six),
            TcpConnection(port, MAPPED + one),
            TcpConnection(port, six),
        }
        assert ended(mapped)
        assert not ended(kept)
        assert not ended(kept_served)
        netlink.reset_connections(is_to_end)  # it is gone: nothing to be done


@pytest.mark.root
def test_more_connections_are_reset_than_go_into_one_message() -> None:
    with (
        socket.create_server(ANY_IPV4, backlog=200) as listener,
        contextlib.ExitStack() as open_ones,
    ):
        pairs = [open_ones.enter_context(connected(listener, "127.0.0.1")) for _ in range(150)]
        port = listener.getsockname()[1]
        netlink.reset_connections(lambda connection: connection.local_port == port)
        assert all(ended(served) for _, served in pairs)


def test_a_kernel_that_cannot_end_connections_need_not_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> list[bytes]:
        raise FileNotFoundError(errno.ENOENT, "netlink: No such file or directory")

    monkeypatch.setattr(netlink._Netlink, "dump", refuse)
    with (
        socket.create_server(ANY, family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        connected(listener, "127.0.0.1") as (mapped, _),
        connected(listener, "::1") as (six, _),
    ):
        ports = {sock.getsockname()[1] for sock in (mapped, six, listener)}
        seen: set[TcpConnection] = set()

        def looked_at(connection: TcpConnection) -> bool:
            seen.update({connection} if connection.local_port in ports else ())
            return False

        netlink.reset_connections(looked_at)
        one, local = socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")
        port = listener.getsockname()[1]
        assert seen == {
            TcpConnection(mapped.getsockname()[1], one),
            TcpConnection(six.getsockname()[1], local),
            TcpConnection(port, MAPPED + one),
            TcpConnection(port, local),
        }
        with pytest.raises(FileNotFoundError):
            netlink.reset_connections(lambda connection: connection.local_port == port)


def test_all_network_namespaces_of_processes_are_found_once_our_own_first() -> None:
    first, *others = netlink.network_namespaces()
    own = Path("/proc/self/ns/net").readlink()
    assert Path(first).readlink() == own
    assert all(Path(path).parts[-2:] == ("ns", "net") for path in others)
    assert f"/proc/{os.getpid()}/ns/net" not in others


_LINKS = """
set -e
ip link add left type veth peer name right
ip link add other type veth peer name end
for link in left right other end; do ip link set $link up; done
ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev left nud reachable
ip neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev left nud stale
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev left nud permanent
ip neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev other nud reachable
"$0" -c "from guest import netlink; netlink.forget_neighbours($1)"
ip neigh show | cut -d" " -f1
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("device", "left"), [("'left'", ["192.0.2.2", "192.0.2.3"]), ("", ["192.0.2.2"])]
)
def test_neighbours_are_forgotten_but_lasting_ones(device: str, left: list[str]) -> None:
    shown = subprocess.run(
        ["unshare", "--net", "sh", "-c", _LINKS, sys.executable, device],
        cwd=Path(netlink.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert sorted(shown.split()) == left
