"""The guest agent over real sockets, with a fake kernel and a fake Docker."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from warmboot.guest import wire
from warmboot.guest.agent import Agent
from warmboot.guest.claim import Claim
from warmboot.guest.docker import Docker
from warmboot.guest.forward import HostForward
from warmboot.guest.sandbox import Sandbox

TOKEN = "t0ken-t0ken-t0ken"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
IDENTITY: dict[str, Any] = {
    "hostname": "brisk-otter",
    "machine_id": MACHINE_ID,
    "token": TOKEN,
    "clock_ns": 1_800_000_000 * 10**9,
    "entropy": base64.b64encode(b"e" * 64).decode(),
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


class FakeSystem:
    """Notes what was asked of the kernel; fails at the named call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.fail_at = ""

    def _note(self, name: str, value: object = None) -> None:
        if name == self.fail_at:
            raise OSError("the kernel said no")
        self.calls.append((name, value))

    def add_entropy(self, entropy: bytes) -> None:
        self._note("entropy", entropy)

    def set_clock(self, clock_ns: int) -> None:
        self._note("clock", clock_ns)

    def set_machine_id(self, machine_id: str) -> None:
        self._note("machine-id", machine_id)

    def set_hostname(self, hostname: str) -> None:
        self._note("hostname", hostname)

    def sync(self) -> None:
        self._note("sync")

    def settle(self) -> None:
        self._note("settle")

    def forget_neighbours(self) -> None:
        self._note("neighbours")


class FakeDocker:
    """Listens where Docker would. Answers pings; ``behave`` gets every other request."""

    def __init__(self, path: Path) -> None:
        self.behave: Callable[[socket.socket, bytes], object] = lambda sock, head: None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            head = read_head(sock)
            if head.startswith(b"GET /_ping "):
                sock.sendall(OK)
            else:
                self.behave(sock, head)


class Guest:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = FakeSystem()
        self.docker_path = folder / "docker.sock"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.claim = Claim(folder / "token")
        docker = Docker(str(self.docker_path), folder / "probe.tar")
        self.forward = HostForward("127.0.0.2", mark=None)
        sandbox = Sandbox(docker, run=lambda _: 0)
        Agent(self.system, self.claim, docker, self.forward, sandbox).start(self.listener)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=10)

    def ask(
        self, method: str, path: str, document: object = None, token: str | None = None
    ) -> tuple[int, Any]:
        body = json.dumps(document).encode() if document is not None else b""
        with self.connect() as sock:
            sock.sendall(request(method, path, body, token))
            return read_answer(sock)

    def become(self) -> None:
        status, answer = self.ask("POST", "/warmboot/v1/identity", IDENTITY)
        assert status == 200, answer


def request(method: str, path: str, body: bytes = b"", token: str | None = None) -> bytes:
    authorization = f"Authorization: Bearer {token}\r\n" if token is not None else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: guest\r\n{authorization}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(1)
        if not chunk:
            break
        data += chunk
    return data


def read_answer(sock: socket.socket) -> tuple[int, Any]:
    head = read_head(sock).decode()
    assert head, "the agent hung up without an answer"
    length = next(
        int(line.split(":")[1])
        for line in head.split("\r\n")
        if line.lower().startswith("content-length")
    )
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while chunk := sock.recv(65536):
        parts.append(chunk)
    return b"".join(parts)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.forward.disable_all()
    guest.listener.shutdown(socket.SHUT_RDWR)
    guest.listener.close()


@pytest.fixture
def docker(guest: Guest) -> Iterator[FakeDocker]:
    docker = FakeDocker(guest.docker_path)
    yield docker
    docker.listener.shutdown(socket.SHUT_RDWR)
    docker.listener.close()


# --- whose it is


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
    assert (guest.folder / "token").stat().st_mode & 0o777 == 0o600
    again = Claim(guest.folder / "token")
    again.check(wire.Head(request("GET", "/", token=TOKEN)))


# --- identity


def test_identity_is_applied_in_order_and_timed(guest: Guest) -> None:
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY)
    assert status == 200
    names = [step["name"] for step in answer["steps"]]
    assert names == ["entropy", "clock", "machine-id", "hostname", "token"]
    assert all(0 <= step["duration_s"] < 5 for step in answer["steps"])
    calls = dict(guest.system.calls)
    assert calls["entropy"] == b"e" * 64
    clock = calls["clock"]
    assert isinstance(clock, int)
    assert 0 <= clock - IDENTITY["clock_ns"] < 5 * 10**9
    assert (calls["machine-id"], calls["hostname"]) == (MACHINE_ID, "brisk-otter")


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


@pytest.mark.parametrize("step", ["entropy", "clock", "machine-id", "hostname"])
def test_an_identity_that_fails_half_way_claims_nothing(guest: Guest, step: str) -> None:
    guest.system.fail_at = step
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY)
    assert (status, step in answer["error"]) == (500, True)
    assert guest.ask("GET", "/warmboot/v1/health")[1]["claimed"] is False
    guest.system.fail_at = ""
    guest.become()


# --- bad input


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * wire.MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"POST /warmboot/v1/identity HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /warmboot/v1/identity HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /warmboot/v1/identity HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /warmboot/v1/identity HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /warmboot/v1/identity HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{", 400),
    ],
)
def test_malformed_requests_are_answered_and_end_there(
    guest: Guest, raw: bytes, status: int
) -> None:
    with guest.connect() as sock:
        sock.sendall(raw)
        assert read_answer(sock)[0] == status
        assert sock.recv(1) == b""
    assert guest.ask("GET", "/warmboot/v1/health")[0] == 200


def test_unknown_endpoints_and_methods(guest: Guest) -> None:
    guest.become()
    assert guest.ask("POST", "/warmboot/v1/nonsense", token=TOKEN)[0] == 404
    assert guest.ask("GET", "/warmboot/v1/sync", token=TOKEN)[0] == 405
    assert guest.ask("GET", "/warmboot/v2/health", token=TOKEN)[0] == 404


def test_a_client_that_dawdles_is_told_so(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_TIMEOUT_S", 0.2)
    with guest.connect() as sock:
        sock.sendall(b"GET /warmboot/v1/health HT")
        assert read_answer(sock)[0] == 408


def test_slow_clients_do_not_keep_others_waiting(guest: Guest) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(guest.connect()).sendall(b"GET /")
        assert guest.ask("GET", "/warmboot/v1/health")[0] == 200


def test_a_connection_takes_one_request_after_the_other(guest: Guest) -> None:
    with guest.connect() as sock:
        sock.sendall(request("GET", "/warmboot/v1/health") * 3)
        assert [read_answer(sock)[0] for _ in range(3)] == [200, 200, 200]


# --- Docker


def test_docker_wait_returns_when_docker_answers(guest: Guest) -> None:
    guest.become()
    started = threading.Timer(0.2, lambda: FakeDocker(guest.docker_path))
    started.start()
    status, answer = guest.ask("POST", "/warmboot/v1/docker-wait", {"timeout_s": 10}, TOKEN)
    assert status == 200
    assert 0.1 < answer["waited_s"] < 5


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
    assert 0.1 < answer["docker"]["waited_s"] < 5


def test_a_docker_that_does_not_come_does_not_spoil_an_identity(guest: Guest) -> None:
    status, answer = guest.ask("POST", "/warmboot/v1/identity", IDENTITY | {"docker_wait_s": 0.1})
    assert status == 200
    assert answer["docker"]["answers"] is False
    assert answer["docker"]["waited_s"] >= 0.1
    assert guest.claim.claimed


@pytest.mark.parametrize("wait", [0, -1, "5", None, True, 1e9])
def test_an_identity_with_nonsense_about_docker_changes_nothing(guest: Guest, wait: object) -> None:
    document = IDENTITY | {"docker_wait_s": wait}
    assert guest.ask("POST", "/warmboot/v1/identity", document)[0] == 400
    assert guest.system.calls == []
    assert not guest.claim.claimed


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
        assert finished.wait(10)
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
    assert ended.wait(10)


def test_many_connections_run_side_by_side(guest: Guest, docker: FakeDocker) -> None:
    barrier = threading.Barrier(33)

    def behave(sock: socket.socket, head: bytes) -> None:
        barrier.wait(20)  # broken unless all are open at once
        sock.sendall(OK)

    guest.become()
    docker.behave = behave
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(guest.connect()) for _ in range(32)]
        for sock in socks:
            sock.sendall(request("GET", "/events", token=TOKEN))
        barrier.wait(20)
        assert all(read_answer(sock) == (200, b"OK") for sock in socks)


# --- before a snapshot


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
    assert not (guest.folder / "token").exists()
    assert guest.ask("POST", "/warmboot/v1/sync", token=TOKEN)[0] == 401
    guest.become()


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
    assert pinged.wait(5 if wake_docker else 0.3) is wake_docker


@pytest.mark.parametrize("wake_docker", ["yes", 1, None])
def test_preparing_a_snapshot_refuses_nonsense(guest: Guest, wake_docker: object) -> None:
    guest.become()
    body = {"wake_docker": wake_docker}
    assert guest.ask("POST", "/warmboot/v1/prepare-snapshot", body, TOKEN)[0] == 400
    assert guest.claim.claimed


# --- host-forward


def test_host_forward_leads_to_the_gateway_while_it_is_enabled(guest: Guest) -> None:
    guest.become()
    with socket.create_server(("127.0.0.2", 0)) as registry:
        port = registry.getsockname()[1]
        ask = {"port": port, "enabled": True}
        for _ in range(2):  # idempotent
            assert guest.ask("POST", "/warmboot/v1/host-forward", ask, TOKEN)[0] == 200
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
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
            socket.create_connection(("127.0.0.1", port), timeout=10)


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
