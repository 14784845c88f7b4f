"""The way through the guest agent to Docker, and the wait for it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from urllib.parse import unquote

import pytest
from tests.support.guests import (
    IDENTITY,
    OK,
    TOKEN,
    FakeDocker,
    Guest,
    read_all,
    read_answer,
    read_head,
    request,
)

from warmboot.guest.docker import FORK_SIGNAL


def test_docker_wait_returns_when_docker_answers(guest: Guest) -> None:
    guest.become()
    started = threading.Timer(0.2, lambda: FakeDocker(guest.docker_path))
    started.start()
    status, answer = guest.ask("POST", "/warmboot/v1/docker-wait", {"timeout_s": 10}, TOKEN)
    assert status == 200
    assert 0 < answer["waited_s"] < 10


def test_docker_wait_asks_again_when_a_ping_is_never_answered(guest: Guest) -> None:
    """As dockerd does with a connection that it took while it was still starting."""
    guest.become()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(guest.docker_path))
        listener.listen(64)
        held: list[socket.socket] = []

        def answer_the_last_only() -> None:
            for _ in range(2):
                held.append(listener.accept()[0])
            while True:
                sock, _ = listener.accept()
                with sock:
                    read_head(sock)
                    sock.sendall(OK)

        threading.Thread(target=answer_the_last_only, daemon=True).start()
        status, _ = guest.ask("POST", "/warmboot/v1/docker-wait", {"timeout_s": 60}, TOKEN)
        assert status == 200
        for sock in held:
            sock.close()


def test_docker_wait_gives_up(guest: Guest) -> None:
    guest.become()
    status, _ = guest.ask("POST", "/warmboot/v1/docker-wait", {"timeout_s": 0.1}, TOKEN)
    assert status == 504


@pytest.mark.parametrize("timeout", [0, -1, "5", None, True, 1e9])
def test_docker_wait_refuses_nonsense(guest: Guest, timeout: object) -> None:
    guest.become()
    assert guest.ask("POST", "/warmboot/v1/docker-wait", {"timeout_s": timeout}, TOKEN)[0] == 400


def test_the_answer_to_an_identity_can_wait_for_docker(guest: Guest) -> None:
    started = threading.Timer(0.2, lambda: FakeDocker(guest.docker_path))
    started.start()
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY | {"docker_wait_s": 10})
    assert status == 200
    assert answer["docker"]["answers"] is True
    assert 0 < answer["docker"]["waited_s"] < 10


def test_a_docker_that_does_not_come_does_not_spoil_an_identity(guest: Guest) -> None:
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY | {"docker_wait_s": 0.1})
    assert status == 200
    assert answer["docker"]["answers"] is False
    assert answer["docker"]["waited_s"] >= 0.1
    assert guest.claimed


@pytest.mark.parametrize("wait", [0, -1, "5", None, True, 1e9])
def test_an_identity_with_nonsense_about_docker_changes_nothing(guest: Guest, wait: object) -> None:
    document = IDENTITY | {"docker_wait_s": wait}
    assert guest.ask("POST", "/warmboot/v1/identity", document)[0] == 400
    assert guest.system.calls == []
    assert not guest.claimed


def test_nobody_asked_for_docker(guest: Guest) -> None:
    FakeDocker(guest.docker_path)
    _, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY)
    assert answer["docker"]["answers"] is False


def test_docker_never_sees_the_token(guest: Guest, docker: FakeDocker) -> None:
    seen: list[bytes] = []

    def behave(sock: socket.socket, head: bytes) -> None:
        seen.append(head)
        sock.sendall(OK)

    guest.become()
    docker.behave = behave
    assert guest.ask("GET", "/v1.45/info?x=1", token=TOKEN) == (200, b"OK")
    assert b"GET /v1.45/info?x=1 HTTP/1.1\r\nHost: guest\r\n" in seen[-1]
    assert TOKEN.encode() not in seen[-1]


def test_without_docker_the_answer_is_502(guest: Guest) -> None:
    guest.become()
    assert guest.ask("GET", "/_ping", token=TOKEN)[0] == 502


def test_an_upgraded_connection_is_raw_in_both_directions(guest: Guest, docker: FakeDocker) -> None:
    def behave(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        while data := sock.recv(4096):
            sock.sendall(data.upper())
        sock.sendall(b"bye")

    guest.become()
    docker.behave = behave
    with guest.connect() as sock:
        sock.sendall(request("POST", "/exec/1/start", token=TOKEN) + b"early ")
        assert b" 101 " in read_head(sock)
        sock.sendall(b"\x00late")
        sock.shutdown(socket.SHUT_WR)  # stdin ends; the rest still comes
        assert read_all(sock) == b"EARLY \x00LATEbye"


def test_a_side_that_ends_first_still_gets_the_other(guest: Guest, docker: FakeDocker) -> None:
    finished = threading.Event()
    got: list[bytes] = []

    def behave(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"done")
        sock.shutdown(socket.SHUT_WR)
        got.append(read_all(sock))
        finished.set()

    guest.become()
    docker.behave = behave
    with guest.connect() as sock:
        sock.sendall(request("POST", "/x", token=TOKEN))
        assert read_all(sock) == b"done"
        sock.sendall(b"afterwards")
        sock.shutdown(socket.SHUT_WR)
        assert finished.wait(60)
    assert got == [b"afterwards"]


def test_big_bodies_go_through_both_ways_at_once(guest: Guest, docker: FakeDocker) -> None:
    size = 32 << 20
    payload = bytes(range(256)) * (size // 256)

    def behave(sock: socket.socket, head: bytes) -> None:
        while data := sock.recv(1 << 20):
            sock.sendall(data)

    guest.become()
    docker.behave = behave
    with guest.connect() as sock:

        def send() -> None:
            sock.sendall(request("POST", "/images/load", token=TOKEN))
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert read_all(sock) == payload
        sender.join()


def test_an_answer_before_the_end_of_the_body_arrives(guest: Guest, docker: FakeDocker) -> None:
    def behave(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"no")

    guest.become()
    docker.behave = behave
    with guest.connect() as sock:
        sock.sendall(request("POST", "/x", token=TOKEN) + b"x" * (8 << 20))
        assert read_all(sock) == b"no"


def test_a_client_that_vanishes_lets_go_of_docker(guest: Guest, docker: FakeDocker) -> None:
    ended = threading.Event()

    def behave(sock: socket.socket, head: bytes) -> None:
        read_all(sock)
        ended.set()

    guest.become()
    docker.behave = behave
    with guest.connect() as sock:
        sock.sendall(request("GET", "/events", token=TOKEN))
    assert ended.wait(60)


def test_many_connections_run_side_by_side(guest: Guest, docker: FakeDocker) -> None:
    barrier = threading.Barrier(33)

    def behave(sock: socket.socket, head: bytes) -> None:
        barrier.wait(60)  # broken unless all are open at once
        sock.sendall(OK)

    guest.become()
    docker.behave = behave
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(guest.connect()) for _ in range(32)]
        for sock in socks:
            sock.sendall(request("GET", "/events", token=TOKEN))
        barrier.wait(60)
        assert all(read_answer(sock) == (200, b"OK") for sock in socks)


def test_containers_that_ask_for_it_are_told_of_a_fork_by_a_signal(guest: Guest) -> None:
    """After it has become another: what one of them refuses keeps no other from it."""
    asked: list[tuple[str, str]] = []
    told = threading.Event()
    listed = [
        {"Id": "gone", "Labels": {FORK_SIGNAL: "SIGHUP"}},
        {"Id": "web", "Labels": {FORK_SIGNAL: "USR1", "other": "x"}},
    ]

    def behave(sock: socket.socket, head: bytes) -> None:
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        asked.append((method, unquote(path)))
        body = json.dumps(listed).encode() if method == "GET" else b""
        status = "404 Not Found" if "/gone/" in path else "200 OK"
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        if "/web/" in path:
            told.set()

    FakeDocker(guest.docker_path).behave = behave
    guest.become()
    woken = IDENTITY | {"token": "after-it-was-parked", "fork": True}
    assert guest.ask("POST", "/warmboot/v1/identity", woken, TOKEN)[0] == 200
    assert asked == []
    fork = woken | {"token": "a-forks-own-token", "machine_id": "f" * 32}
    assert guest.ask("POST", "/warmboot/v1/identity", fork, woken["token"])[0] == 200
    assert told.wait(60)
    assert asked == [
        ("GET", f'/containers/json?filters={{"label": ["{FORK_SIGNAL}"]}}'),
        ("POST", "/containers/gone/kill?signal=SIGHUP"),
        ("POST", "/containers/web/kill?signal=USR1"),
    ]
