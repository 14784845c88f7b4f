"""What the guest agent says to malformed, unknown, slow and many requests."""

from __future__ import annotations

import contextlib

import pytest
from tests.support.guests import TOKEN, Guest, read_answer, request

from warmboot.guest import wire


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


def test_a_file_system_grows_with_its_disk_and_is_measured(guest: Guest) -> None:
    guest.become()
    path = "/warmboot/v1/grow-disk"
    assert guest.ask("POST", path, {"size_bytes": 1 << 35}, TOKEN)[0] == 200
    assert ("grow", 1 << 35) in guest.system.calls
    for size in (None, "1", True, 0):
        assert guest.ask("POST", path, {"size_bytes": size}, TOKEN)[0] == 400
    guest.system.fail_at = "grow"
    assert guest.ask("POST", path, {"size_bytes": 1 << 36}, TOKEN)[0] == 500
    used = guest.ask("GET", "/warmboot/v1/disk", token=TOKEN)
    assert used == (200, {"size_bytes": 4096, "used_bytes": 1024})
