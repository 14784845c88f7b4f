"""Whose a VM is: identities and tokens, and how they are forgotten before a snapshot."""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading

import pytest
from tests.support.guests import (
    IDENTITY,
    MACHINE_ID,
    TOKEN,
    FakeDocker,
    Guest,
    read_all,
    read_answer,
    request,
)
from typing_extensions import override

from warmboot.guest import wire
from warmboot.guest.claim import TOKEN_FILE, Claim
from warmboot.guest.netlink import TcpConnection

# Whose it is


def test_health_needs_no_token_and_says_whether_docker_answers(guest: Guest) -> None:
    status, answer = guest.ask("GET", "/warmboot/v1/health")
    assert status == 200
    assert (answer["claimed"], answer["docker"]) == (False, False)
    docker = FakeDocker(guest.docker_path)
    guest.become()
    _, answer = guest.ask("GET", "/warmboot/v1/health")
    assert (answer["claimed"], answer["docker"]) == (True, True)
    docker.listener.close()


@pytest.mark.parametrize(
    "path", ["/_ping", "/containers/json", "/warmboot/v1/sync", "/warmboot/v1/nonsense"]
)
def test_an_unclaimed_vm_does_nothing_but_health_and_identity(
    guest: Guest, docker: FakeDocker, path: str
) -> None:
    for token in (None, "", TOKEN):
        assert guest.ask("POST", path, token=token)[0] == 401
    assert guest.system.calls == []


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper()])
def test_a_claimed_vm_refuses_any_other_token(
    guest: Guest, docker: FakeDocker, token: str | None
) -> None:
    guest.become()
    for path in ("/_ping", "/warmboot/v1/sync", "/warmboot/v1/identity"):
        assert guest.ask("POST", path, token=token)[0] == 401
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 200


def test_a_claimed_vm_takes_no_other_identity(guest: Guest) -> None:
    guest.become()
    other = IDENTITY | {"token": "another-token-altogether"}
    assert guest.ask("POST", "/warmboot/v1/identity", other, TOKEN)[0] == 409
    assert [name for name, _ in guest.system.calls].count("hostname") == 1


FORK = IDENTITY | {"token": "a-forks-own-token", "hostname": "a-fork", "fork": True}
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010012C6\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000012C6\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


@pytest.mark.parametrize("token", [None, "wrong", FORK["token"]])
def test_nobody_makes_a_vm_another_without_the_token_that_it_was_frozen_with(
    guest: Guest, token: str | None
) -> None:
    guest.become()
    assert guest.ask("POST", "/warmboot/v1/identity", FORK, token)[0] == 401
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 200


def test_a_fork_becomes_another_and_obeys_its_source_no_more(guest: Guest) -> None:
    guest.become()
    with guest.connect() as waiting:
        waiting.sendall(request("GET", "/warmboot/v1/health"))
        assert read_answer(waiting)[0] == 200
        guest.system.files["/proc/net/route"] = ROUTES
        status, answer = guest.ask("POST", "/warmboot/v1/identity", FORK, TOKEN)
        assert status == 200
        assert read_all(waiting) == b"", "who was connected with its source is hung up"
    names = [step["name"] for step in answer["steps"]]
    assert names == [
        "entropy",
        "clock",
        "machine-id",
        "hostname",
        "token",
        "neighbours",
        "connections",
    ]
    assert guest.system.name == "a-fork"
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 401
    assert guest.ask("POST", "/warmboot/v1/sync", token=FORK["token"])[0] == 200
    told = dict(guest.system.calls)
    assert (told["neighbours"], told["reset"]) == ("eth0", [])


def _connected(peer: str, local_port: int = 5432) -> TcpConnection:
    return TcpConnection(local_port, ipaddress.ip_address(peer).packed)


HERE = (
    _connected("172.17.0.3"),  # with another container
    _connected("127.0.0.1"),  # with itself
    _connected("198.18.0.1", 1024),  # with the agent
    _connected("::ffff:172.17.0.3"),
    _connected("2001:db8::2"),
    _connected("::1"),
)


@pytest.mark.parametrize("peer", ["198.18.0.1", "8.8.8.8", "::ffff:198.18.0.1", "172.18.0.3"])
def test_a_forks_connections_with_somebody_outside_are_reset(guest: Guest, peer: str) -> None:
    guest.become()
    guest.system.files["/proc/net/route"] = ROUTES
    outside = _connected(peer)
    guest.system.connections = [*HERE, outside, *HERE]
    assert guest.ask("POST", "/warmboot/v1/identity", FORK, TOKEN)[0] == 200
    assert dict(guest.system.calls)["reset"] == [outside]


def test_a_fork_whose_connections_cannot_be_reset_says_so(guest: Guest) -> None:
    guest.become()
    guest.system.fail_at = "reset"
    status, answer = guest.ask("POST", "/warmboot/v1/identity", FORK, TOKEN)
    assert (status, "connections" in answer["error"]) == (500, True)


def test_a_claim_whose_answer_was_lost_can_be_repeated(guest: Guest) -> None:
    guest.become()
    assert guest.ask("POST", "/warmboot/v1/identity", IDENTITY, TOKEN)[0] == 200
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 200


def test_of_many_claims_at_once_one_wins(guest: Guest) -> None:
    answers: list[int] = []

    def claim(number: int) -> None:
        document = IDENTITY | {"token": f"token-of-claimant-{number}"}
        answers.append(guest.ask("POST", "/warmboot/v1/identity", document)[0])

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(200) == 1
    assert set(answers) <= {200, 401, 409}


def test_a_restarted_agent_still_knows_its_owner(guest: Guest) -> None:
    guest.become()
    assert guest.system.modes[TOKEN_FILE] == 0o600
    again = Claim(guest.system)
    again.check(wire.Head(request("GET", "/", token=TOKEN)))


# Identity


def test_identity_is_applied_in_order_and_timed(guest: Guest) -> None:
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY)
    assert status == 200
    names = [step["name"] for step in answer["steps"]]
    assert names == ["entropy", "clock", "machine-id", "hostname", "token"]
    assert all(0 <= step["duration_s"] < 60 for step in answer["steps"])
    calls = dict(guest.system.calls)
    assert calls["entropy"] == b"e" * 64
    clock = calls["clock"]
    assert isinstance(clock, int)
    assert 0 <= clock - IDENTITY["clock_ns"] < 60 * 10**9
    assert calls["hostname"] == "brisk-otter"
    assert guest.system.files == {
        "/etc/machine-id": f"{MACHINE_ID}\n",
        "/etc/hostname": "brisk-otter\n",
        "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 brisk-otter\n",
        TOKEN_FILE: TOKEN,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hostname", ""),
        ("hostname", "a/b"),
        ("hostname", "-a"),
        ("hostname", "a" * 64),
        ("hostname", "a\nb"),
        ("hostname", None),
        ("machine_id", MACHINE_ID.upper()),
        ("machine_id", MACHINE_ID + "0"),
        ("machine_id", MACHINE_ID + "\n"),
        ("token", "short"),
        ("token", "with a space in it, long"),
        ("token", 7),
        ("clock_ns", "1800000000000000000"),
        ("clock_ns", True),
        ("clock_ns", 0),
        ("clock_ns", 1.8e18),
        ("entropy", ""),
        ("entropy", "????"),
        ("entropy", base64.b64encode(b"few").decode()),
        ("entropy", base64.b64encode(b"e" * 4097).decode()),
        ("entropy", ["e"]),
    ],
)
def test_a_bad_identity_changes_nothing(guest: Guest, field: str, value: object) -> None:
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY | {field: value})
    assert status == 400
    assert field in answer["error"]
    assert guest.system.calls == []
    guest.become()


@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("entropy", "entropy"),
        ("clock", "clock"),
        ("/etc/machine-id", "machine-id"),
        ("hostname", "hostname"),
        ("/etc/hosts", "hostname"),
        (TOKEN_FILE, "token"),
    ],
)
def test_an_identity_that_fails_half_way_claims_nothing(guest: Guest, call: str, step: str) -> None:
    guest.system.fail_at = call
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY)
    assert (status, step in answer["error"]) == (500, True)
    assert not guest.claimed
    guest.system.fail_at = ""
    guest.become()


# Before a snapshot


def test_preparing_a_snapshot_forgets_the_owner_and_cuts_everybody_off(
    guest: Guest, docker: FakeDocker
) -> None:
    guest.become()
    docker.behave = lambda sock, head: read_all(sock)
    with guest.connect() as follower, guest.connect() as idle:
        follower.sendall(request("GET", "/events", token=TOKEN))
        idle.sendall(request("GET", "/warmboot/v1/health"))
        read_answer(idle)
        assert guest.ask("POST", "/warmboot/v1/prepare-snapshot", token=TOKEN)[0] == 200
        assert read_all(follower) == b""
        assert read_all(idle) == b""
    names = [name for name, _ in guest.system.calls]
    assert names[-3:] == ["neighbours", "sync", "settle"]
    assert TOKEN_FILE not in guest.system.files
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 401
    guest.become()


def test_what_cannot_be_forgotten_for_a_snapshot_is_told(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: str | None = None) -> None:
        raise PermissionError("netlink: not permitted")

    guest.become()
    monkeypatch.setattr(guest.system, "forget_neighbours", refuse)
    status, answer = guest.ask("POST", "/warmboot/v1/prepare-snapshot", token=TOKEN)
    assert status == 500
    assert "the neighbours were not forgotten: netlink: not permitted" in str(answer)


@pytest.mark.parametrize("wake_docker", [True, False])
def test_docker_is_woken_until_it_is_claimed_again_if_that_is_wanted(
    guest: Guest, wake_docker: bool
) -> None:
    pinged = threading.Event()

    class Noticing(FakeDocker):
        @override
        def _serve(self, sock: socket.socket) -> None:
            pinged.set()
            super()._serve(sock)

    Noticing(guest.docker_path)
    guest.become()
    body = {"wake_docker": wake_docker}
    assert guest.ask("POST", "/warmboot/v1/prepare-snapshot", body, TOKEN)[0] == 200
    assert pinged.wait(60 if wake_docker else 0.3) is wake_docker


def test_docker_is_pinged_beside_the_identity_if_it_is_waited_for(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinged, beside = threading.Event(), []

    class Noticing(FakeDocker):
        @override
        def _serve(self, sock: socket.socket) -> None:
            pinged.set()
            super()._serve(sock)

    Noticing(guest.docker_path)
    monkeypatch.setattr(guest.system, "set_clock", lambda _: beside.append(pinged.wait(60)))
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY | {"docker_wait_s": 5})
    assert (status, answer["docker"]["answers"], beside) == (200, True, [True])


@pytest.mark.parametrize("wake_docker", ["yes", 1, None])
def test_preparing_a_snapshot_refuses_nonsense(guest: Guest, wake_docker: object) -> None:
    guest.become()
    body = {"wake_docker": wake_docker}
    assert guest.ask("POST", "/warmboot/v1/prepare-snapshot", body, TOKEN)[0] == 400
    assert guest.claimed
