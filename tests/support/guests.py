"""The guest agent over real sockets, with a machine in memory and a fake Docker."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from warmboot.guest.agent import Agent
from warmboot.guest.docker import Docker
from warmboot.guest.netlink import TcpConnection

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
    """Notes what was asked of the machine, keeps files and rules, fails at the named call.

    A file that is written is a call of its path. ``localhost`` is 127.0.0.1, the host 127.0.0.2.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.files: dict[str, str] = {}
        self.modes: dict[str, int] = {}
        self.rules: list[Sequence[str]] = []
        self.name = "nobody"
        self.fail_at = ""
        self.connections: list[TcpConnection] = []

    def _note(self, name: str, value: object = None) -> None:
        if name == self.fail_at:
            raise OSError("the kernel said no")
        self.calls.append((name, value))

    def add_entropy(self, entropy: bytes) -> None:
        self._note("entropy", entropy)

    def set_clock(self, clock_ns: int) -> None:
        self._note("clock", clock_ns)

    def hostname(self) -> str:
        return self.name

    def set_hostname(self, hostname: str) -> None:
        self._note("hostname", hostname)
        self.name = hostname

    def read_file(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def write_file(self, path: str, text: str, mode: int = 0o644) -> None:
        self._note(path, text)
        self.files[path] = text
        self.modes.setdefault(path, mode)

    def remove_file(self, path: str) -> None:
        self.files.pop(path, None)

    def hang_up(self, pid_file: str) -> None:
        self._note("hang up", pid_file)

    def forget_neighbours(self, device: str | None = None) -> None:
        self._note("neighbours", device)

    def reset_connections(self, is_to_end: Callable[[TcpConnection], bool]) -> None:
        ended = list(filter(is_to_end, self.connections))
        self._note("reset", ended)

    def run(self, command: Sequence[str]) -> int:
        program = command[0].rpartition("/")[2]
        if program != "iptables":
            self._note(" ".join([program, *command[1:]]))
            return 0
        _, _, _, table, action, chain, *rule = command
        if action == "-C":
            return 0 if (table, chain, *rule) in self.rules else 1
        if action == "-D":
            if (table, chain, *rule) not in self.rules:
                return 1
            self.rules.remove((table, chain, *rule))
            return 0
        if self.fail_at == "iptables":
            return 1
        self.rules.append((table, chain, *rule))
        return 0

    def sync(self) -> None:
        self._note("sync")

    def grow_file_system(self, size_bytes: int) -> None:
        self._note("grow", size_bytes)

    def disk_usage(self) -> tuple[int, int]:
        return 4096, 1024

    def settle(self) -> None:
        self._note("settle")

    def listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def connect_to_host(self, port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.2", port))


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
    """An agent that serves, in this process."""

    def __init__(self, folder: Path) -> None:
        self.system = FakeSystem()
        self.docker_path = folder / "docker.sock"
        self.listener = socket.create_server(("127.0.0.1", 0))
        Agent(self.system, Docker(str(self.docker_path), folder / "probe.tar")).start(self.listener)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=60)

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

    @property
    def claimed(self) -> bool:
        return bool(self.ask("GET", "/warmboot/v1/health")[1]["claimed"])


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
