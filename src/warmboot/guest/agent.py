"""The agent: takes connections, checks tokens, does what its own endpoints say, splices the rest.

    connection ─▶ head ─▶ /warmboot/v1/… ─▶ answered here, next head
                    └───▶ anything else ──▶ spliced with Docker's socket until it ends

Threads wait in ``accept`` ahead of need: after a restore the first request meets a thread that
has been there all the time, and runs no program and imports nothing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from . import AGENT_VERSION
from .claim import Claim
from .connections import forget_link, reset_connections
from .docker import INSECURE, LABELS, MIRRORS, Docker, configure
from .firewall import let_reach_host
from .folders import Folders
from .forward import HostForward
from .identity import Identity
from .sandbox import JOINED, Sandbox
from .splice import splice
from .system import System
from .wire import Connection, Head, HttpError

PREFIX = "/warmboot/v1/"
_SPARE_THREADS = 4
_MAX_THREADS = 512
_MAX_WAIT_S = 600.0
_LINGER_S = 5.0
_WAKE_EVERY_S = 0.02


class Listener(Protocol):
    """A listening socket of any family, or what stands for one."""

    def accept(self) -> tuple[socket.socket, Any]: ...


class Agent:
    """The agent of one VM: of the machine ``system``, in which ``docker`` runs."""

    def __init__(self, system: System, docker: Docker) -> None:
        self._system = system
        self._docker = docker
        self._claim = Claim(system)
        self._forward = HostForward(system)
        self._sandbox = Sandbox(system, docker)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._connections: set[socket.socket] = set()
        self._closing: set[socket.socket] = set()
        self._wake_docker = threading.Event()
        self._docker_woke = threading.Event()
        self._endpoints: dict[tuple[str, str], Callable[[Connection, Head], dict[str, Any]]] = {
            ("GET", "health"): self._health,
            ("POST", "identity"): self._identity,
            ("POST", "docker-wait"): self._docker_wait,
            ("POST", "sandbox"): self._ensure_sandbox,
            ("POST", "warm-up"): self._warm_up,
            ("POST", "hand-over"): self._hand_over,
            ("POST", "registries"): self._use_registries,
            ("POST", "grow-disk"): self._grow_disk,
            ("GET", "disk"): self._disk,
            ("POST", "prepare-snapshot"): self._prepare_snapshot,
            ("POST", "host-forward"): self._host_forward,
            ("POST", "host-ports"): self._host_ports,
            ("POST", "folders"): self._mount_folders,
            ("POST", "sync"): self._sync,
        }

    def start(self, listener: Listener) -> None:
        """Begin to serve, in threads, until the listener is shut down."""
        threading.Thread(target=self._ping_docker, daemon=True).start()
        for _ in range(_SPARE_THREADS):
            self._spawn(listener)

    def _ping_docker(self) -> None:
        """Wakes Docker as soon as a restored VM runs, from before the snapshot until it is claimed.

        After a restore its pages are not mapped yet, and under emulation its code has to be
        translated again; that can go on while the host connects and gives the VM its identity.
        """
        while True:
            self._wake_docker.wait()
            if self._docker.answers():
                self._docker_woke.set()
            time.sleep(_WAKE_EVERY_S)

    def _spawn(self, listener: Listener) -> None:
        with self._lock:
            self._threads += 1
            self._idle += 1
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: Listener) -> None:
        """One thread's life: accept, serve, again; ends when there are enough others."""
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._idle -= 1
                more = self._idle == 0 and self._threads < _MAX_THREADS
                self._connections.add(sock)
            if more:
                self._spawn(listener)
            try:
                with sock:
                    self._converse(Connection(sock))
            except OSError:
                pass  # the client is gone
            finally:
                with self._lock:
                    self._connections.discard(sock)
                    self._closing.discard(sock)
            with self._lock:
                if self._idle >= _SPARE_THREADS:
                    self._threads -= 1
                    return
                self._idle += 1

    def _converse(self, connection: Connection) -> None:
        sock = connection.sock
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            while (head := connection.read_head()) is not None:
                if not head.path.startswith("/warmboot/"):
                    self._claim.check(head)
                    self._to_docker(connection, head)
                    return
                answer = self._dispatch(connection, head)
                keep_alive = head.keep_alive and sock not in self._closing
                connection.send_json(200, answer, keep_alive=keep_alive)
                if not keep_alive:
                    return
        except HttpError as error:
            # Clients of Docker's API look for a message.
            body = {"error": error.reason, "message": error.reason}
            connection.send_json(error.status, body, keep_alive=False)
            _linger(sock)

    def _to_docker(self, connection: Connection, head: Head) -> None:
        try:
            docker = self._docker.connect(5.0)
        except OSError as error:
            raise HttpError(502, f"Docker does not take connections: {error}") from error
        with docker:
            splice(connection.sock, docker, head.without_token() + connection.ahead)
        _linger(connection.sock)

    def _dispatch(self, connection: Connection, head: Head) -> dict[str, Any]:
        name = head.path.removeprefix(PREFIX)
        if name not in ("health", "identity") or (name == "identity" and self._claim.claimed):
            self._claim.check(head)
        endpoint = self._endpoints.get((head.method, name))
        if endpoint is None:
            known = any(name == other for _, other in self._endpoints)
            raise HttpError(405 if known else 404, f"there is no {head.method} {head.path}")
        return endpoint(connection, head)

    def _health(self, connection: Connection, head: Head) -> dict[str, Any]:
        connection.read_body(head)
        return {
            "version": AGENT_VERSION,
            "claimed": self._claim.claimed,
            "docker": self._docker.answers(),
            "uptime_s": time.monotonic() - self._started,
        }

    def _identity(self, connection: Connection, head: Head) -> dict[str, Any]:
        document = connection.read_json(head)
        identity = Identity(document)
        docker_wait_s = _seconds(document, "docker_wait_s", 0.0)
        fork = _flag(document, "fork", False)
        with self._claim.lock, self._docker_is_pinged(docker_wait_s):
            # The same claim again is one whose answer was lost on the way.
            other = self._claim.claimed and not self._claim.is_token(identity.token)
            if other and not fork:
                raise HttpError(409, "this VM has another identity already")
            woken = other and identity.is_of(self._system)  # it was parked: nobody else has it
            steps = identity.apply(self._system, self._claim.claim)
            if other:
                steps += self._leave_the_source(connection)
            # What is asked next is answered with this: a request less, which an emulated guest
            # feels.
            began = time.monotonic()
            answers = self._docker_woke.wait(docker_wait_s)
            docker = {"answers": answers, "waited_s": time.monotonic() - began}
        if other and not woken:  # nobody waits for it
            threading.Thread(target=self._tell_programs, daemon=True).start()
        return {"steps": steps, "docker": docker, "version": AGENT_VERSION}

    @contextlib.contextmanager
    def _docker_is_pinged(self, wait_s: float) -> Iterator[None]:
        """Beside the body, if it waits for Docker; never after it."""
        self._docker_woke.clear()
        if wait_s:
            self._wake_docker.set()
        else:
            self._wake_docker.clear()
        try:
            yield
        finally:
            self._wake_docker.clear()

    def _leave_the_source(self, connection: Connection) -> list[dict[str, str | float]]:
        """What it was connected with when it was frozen is connected with the VM that runs on."""
        self._hang_up_others(connection)
        steps: list[dict[str, str | float]] = []
        for name, step in (("neighbours", forget_link), ("connections", reset_connections)):
            begun = time.monotonic()
            try:
                step(self._system)
            except OSError as error:
                raise HttpError(500, f"the step {name} failed: {error}") from error
            steps.append({"name": name, "duration_s": time.monotonic() - begun})
        return steps

    def _tell_programs(self) -> None:
        """That they are another's now: after it is so."""
        with contextlib.suppress(HttpError):
            self._docker.tell_of_fork()

    def _hang_up_others(self, connection: Connection) -> None:
        with self._lock:
            others = self._connections - {connection.sock}
        for sock in others:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _docker_wait(self, connection: Connection, head: Head) -> dict[str, Any]:
        timeout_s = _seconds(connection.read_json(head), "timeout_s", 60.0)
        docker = self._docker_comes(timeout_s)
        if not docker["answers"]:
            raise HttpError(504, f"Docker did not answer within {timeout_s:g} s")
        return docker

    def _docker_comes(self, timeout_s: float) -> dict[str, Any]:
        began = time.monotonic()
        answers = self._docker.comes(timeout_s)
        return {"answers": answers, "waited_s": time.monotonic() - began}

    def _ensure_sandbox(self, connection: Connection, head: Head) -> dict[str, Any]:
        connection.read_body(head)
        self._sandbox.ensure()
        return {}

    def _warm_up(self, connection: Connection, head: Head) -> dict[str, Any]:
        connection.read_body(head)
        started = time.monotonic()
        self._sandbox.ensure()
        self._docker.warm_up(JOINED)
        return {"duration_s": time.monotonic() - started}

    def _hand_over(self, connection: Connection, head: Head) -> dict[str, Any]:
        """Docker is a user's from here on: nothing of ours is in it."""
        document = connection.read_json(head)
        changes = {LABELS: _texts(document, "labels"), **_registries(document)}
        started = time.monotonic()
        self._sandbox.remove()
        self._configure(changes)
        return {"duration_s": time.monotonic() - started}

    def _use_registries(self, connection: Connection, head: Head) -> dict[str, Any]:
        """Have Docker pull from mirrors."""
        self._configure(_registries(connection.read_json(head)))
        return {}

    def _configure(self, changes: dict[str, list[str]]) -> None:
        try:
            configure(self._system, changes)
        except OSError as error:
            raise HttpError(500, f"Docker was not configured: {error}") from error
        if MIRRORS in changes:
            self._docker.uses_mirrors(changes[MIRRORS])

    def _grow_disk(self, connection: Connection, head: Head) -> dict[str, Any]:
        size_bytes = connection.read_json(head).get("size_bytes")
        if type(size_bytes) is not int or size_bytes < 1:
            raise HttpError(400, "size_bytes must be a whole number")
        try:
            self._system.grow_file_system(size_bytes)
        except OSError as error:
            raise HttpError(500, f"the file system does not grow: {error}") from error
        return {}

    def _disk(self, connection: Connection, head: Head) -> dict[str, Any]:
        connection.read_body(head)
        size_bytes, used_bytes = self._system.disk_usage()
        return {"size_bytes": size_bytes, "used_bytes": used_bytes}

    def _prepare_snapshot(self, connection: Connection, head: Head) -> dict[str, Any]:
        """Leave nothing in memory that a clone must not have; the page cache stays.

        ``wake_docker`` false: it is only paused, and not restored; Docker needs no waking.
        """
        wake_docker = _flag(connection.read_json(head), "wake_docker", True)
        self._forward.disable_all()
        with self._lock:
            self._closing.add(connection.sock)
        self._hang_up_others(connection)
        try:  # the next network is another one, with other MAC addresses
            self._system.forget_neighbours()
        except OSError as error:
            raise HttpError(500, f"the neighbours were not forgotten: {error}") from error
        self._system.sync()
        self._system.settle()
        with self._claim.lock:
            self._claim.release()
        if wake_docker:
            self._wake_docker.set()
        return {"version": AGENT_VERSION}

    def _host_forward(self, connection: Connection, head: Head) -> dict[str, Any]:
        document = connection.read_json(head)
        port, enabled = _port(document.get("port")), _flag(document, "enabled", None)
        if enabled:
            self._forward.enable(port)
        else:
            self._forward.disable(port)
        return {"port": port, "enabled": enabled}

    def _host_ports(self, connection: Connection, head: Head) -> dict[str, Any]:
        ports = connection.read_json(head).get("ports")
        if type(ports) is not list:
            raise HttpError(400, "ports must be a list of numbers")
        let_reach_host(self._system, [_port(port) for port in ports])
        return {}

    def _mount_folders(self, connection: Connection, head: Head) -> dict[str, Any]:
        Folders(self._system).mount(connection.read_json(head))
        return {}

    def _sync(self, connection: Connection, head: Head) -> dict[str, Any]:
        connection.read_body(head)
        self._system.sync()
        return {}


def _seconds(document: dict[str, Any], key: str, default: float) -> float:
    if key not in document:
        return default
    seconds = document[key]
    if type(seconds) not in (int, float) or not 0 < seconds <= _MAX_WAIT_S:
        raise HttpError(400, f"{key} must be a number up to {_MAX_WAIT_S:g}")
    return float(seconds)


def _port(number: object) -> int:
    if type(number) is not int or not 1 <= number <= 65535:
        raise HttpError(400, "a port must be a number from 1 to 65535")
    return number


def _texts(document: dict[str, Any], key: str) -> list[str]:
    texts = document.get(key, [])
    if type(texts) is not list or not all(type(text) is str for text in texts):
        raise HttpError(400, f"{key} must be a list of texts")
    return texts


def _registries(document: dict[str, Any]) -> dict[str, list[str]]:
    """What is said of registries; nothing without mirrors."""
    mirrors, plain = _texts(document, "mirrors"), _texts(document, "plain_registries")
    return {MIRRORS: mirrors, INSECURE: plain} if mirrors else {}


def _flag(document: dict[str, Any], key: str, default: bool | None) -> bool:
    flag = document.get(key, default)
    if type(flag) is not bool:
        raise HttpError(400, f"{key} must be true or false")
    return flag


def _linger(sock: socket.socket) -> None:
    """Read on for a little before closing: with unread data a close would cut off the answer."""
    deadline = time.monotonic() + _LINGER_S
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(1.0)
        while time.monotonic() < deadline and sock.recv(256 << 10):
            pass
