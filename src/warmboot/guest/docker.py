"""The agent's own dealings with Docker: is it there, and the warm-up of the container runtime."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .system import System
from .wire import HttpError

WARM_UP_IMAGE = "warmboot/probe:latest"
_WARM_UP_LABEL = "warmboot.probe"
_CONFIG, _PID_FILE = "/etc/docker/daemon.json", "/run/docker.pid"
LABELS, MIRRORS, INSECURE = "labels", "registry-mirrors", "insecure-registries"
_ALWAYS_INSECURE = ("127.0.0.0/8",)
FORK_SIGNAL = "warmboot.fork-signal"
"""The label by which a container asks for a signal after a fork."""

_RELOAD_TIMEOUT_S = 20.0
_RETRY_S = 0.02
_REFUSALS = (400, 404, 409, 500)
_PING_TIMEOUT_S = 2.0
_CALL_TIMEOUT_S = 120.0


class Docker:
    """Docker's Engine API on a Unix socket, one connection a call."""

    def __init__(self, socket_path: str, image_archive: Path) -> None:
        self.socket_path = socket_path
        self.image_archive = image_archive

    def connect(self, timeout_s: float | None = None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.socket_path)
        except OSError:
            sock.close()
            raise
        return sock

    def answers(self, timeout_s: float = _PING_TIMEOUT_S) -> bool:
        """Whether ``GET /_ping`` is answered with 200."""
        try:
            with self.connect(timeout_s) as sock:
                sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
                return sock.recv(64).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
        except OSError:
            return False

    def comes(self, timeout_s: float) -> bool:
        """Wait until Docker answers; whether it did in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            # Not with all the time that is left: a connection that dockerd took while it was still
            # starting may never be answered, though a new one is at once.
            if self.answers(min(left, _PING_TIMEOUT_S)):
                return True
            time.sleep(min(_RETRY_S, left))
        return False

    def load_image(self) -> None:
        """Have the throw-away image."""
        if self.call("GET", f"/images/{WARM_UP_IMAGE}/json", accept=(404,))[0] == 404:
            self.call("POST", "/images/load?quiet=1", body=self.image_archive.read_bytes())

    def warm_up(self, host_config: dict[str, Any]) -> None:
        """Run the warm-up image twice, as the user's container will run, and remove what it left.

        Afterwards the pages of dockerd, containerd, the shim and crun that a start takes are in
        memory. ``HttpError`` 502 when Docker refuses a step.
        """
        self.load_image()
        try:
            for _ in range(2):
                self._run_once(host_config)
        finally:
            self._remove_left()

    def _run_once(self, host_config: dict[str, Any]) -> None:
        spec = {
            "Image": WARM_UP_IMAGE,
            "Cmd": ["/bin/true"],
            "Labels": {_WARM_UP_LABEL: "1"},
            "HostConfig": host_config,
        }
        _, created = self.call("POST", "/containers/create", document=spec)
        container = json.loads(created)["Id"]
        self.call("POST", f"/containers/{container}/start")
        self.call("POST", f"/containers/{container}/wait")
        self.call("GET", f"/containers/{container}/json")
        self.call("GET", f"/containers/{container}/logs?stdout=1")
        self.call("DELETE", f"/containers/{container}?force=1&v=1")

    def _remove_left(self) -> None:
        filters = quote(json.dumps({"label": [_WARM_UP_LABEL]}))
        _, listed = self.call("GET", f"/containers/json?all=1&filters={filters}")
        for entry in json.loads(listed):
            self.call("DELETE", f"/containers/{entry['Id']}?force=1&v=1", accept=(404, 409))

    def tell_of_fork(self) -> None:
        """Send the first process of each container that runs the signal that its label names. One
        that Docker does not send is nobody's concern. ``HttpError`` 502 if Docker does not say."""
        filters = quote(json.dumps({"label": [FORK_SIGNAL]}))
        _, listed = self.call("GET", f"/containers/json?filters={filters}")
        for entry in json.loads(listed):
            name = quote(entry["Labels"][FORK_SIGNAL], safe="")
            path = f"/containers/{entry['Id']}/kill?signal={name}"
            self.call("POST", path, accept=_REFUSALS)

    def uses_mirrors(self, mirrors: list[str]) -> None:
        """Return when Docker has taken them over; ``HttpError`` 504 if it does not."""
        deadline = time.monotonic() + _RELOAD_TIMEOUT_S
        while True:
            _, body = self.call("GET", "/info")
            known = (json.loads(body).get("RegistryConfig") or {}).get("Mirrors") or []
            if [url.rstrip("/") for url in known] == [url.rstrip("/") for url in mirrors]:
                return
            if time.monotonic() > deadline:
                raise HttpError(504, f"Docker does not use the mirrors {mirrors}, but {known}")
            time.sleep(_RETRY_S)

    def call(
        self,
        method: str,
        path: str,
        *,
        document: Any = None,
        body: bytes = b"",
        accept: tuple[int, ...] = (),
    ) -> tuple[int, bytes]:
        kind = "application/x-tar"
        if document is not None:
            body, kind = json.dumps(document).encode(), "application/json"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            with (
                self.connect(_CALL_TIMEOUT_S) as sock,
                contextlib.closing(sock.makefile("rb")) as answer,
            ):
                sock.sendall(head.encode() + body)
                status = int(answer.readline().split()[1])
                content = b"".join(_body(answer))
        except (OSError, IndexError, ValueError) as error:
            raise HttpError(502, f"{method} {path}: Docker does not answer: {error}") from error
        if status >= 400 and status not in accept:
            reason = content[:500].decode(errors="replace").strip()
            raise HttpError(502, f"{method} {path}: Docker answered {status}: {reason}")
        return status, content


def configure(system: System, changes: dict[str, list[str]]) -> None:
    """Have Docker take over labels (``docker info`` tells them), mirrors and registries that are
    asked without TLS. dockerd reads its file again when it is told to, and soon after has done so.
    """
    try:
        config = json.loads(system.read_file(_CONFIG))
    except (FileNotFoundError, ValueError):
        config = {}
    more = changes.get(INSECURE, [])
    config |= changes
    if more:
        config[INSECURE] = [*_ALWAYS_INSECURE, *more]
    system.write_file(_CONFIG, json.dumps(config, indent=2) + "\n")
    system.hang_up(_PID_FILE)


def _body(answer: Any) -> Iterator[bytes]:
    """The rest of a response, after its status line, out of its chunks where it has some."""
    chunked = False
    while (line := answer.readline().strip().lower()) != b"":
        chunked = chunked or line == b"transfer-encoding: chunked"
    if not chunked:
        yield answer.read()
        return
    while size := int(answer.readline().split(b";")[0], 16):
        yield answer.read(size)
        answer.readline()
