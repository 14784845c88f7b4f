"""The warm-up, against a fake Docker that keeps containers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from warmboot.guest.docker import Docker
from warmboot.guest.sandbox import JOINED
from warmboot.guest.wire import HttpError


class DockerOfContainers:
    """As much of the Engine API as the warm-up uses."""

    def __init__(self, path: Path) -> None:
        self.images = 0
        self.containers: dict[str, dict[str, Any]] = {}
        self.started: list[dict[str, Any]] = []
        self.refuse = ""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as stream:
                method, path, _ = stream.readline().decode().split()
                length = 0
                while line := stream.readline().strip().lower():
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                status, answer = self._answer(method, path.split("?")[0], stream.read(length))
                body = json.dumps(answer).encode()
                chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                head = f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n"
                sock.sendall(head.encode() + chunks)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuse and path.endswith(self.refuse):
            return 500, {"message": "no"}
        match method, path.strip("/").split("/"):
            case "GET", ["images", *_]:
                return (200, {}) if self.images else (404, {})
            case "POST", ["images", "load"]:
                assert body == b"the archive"
                self.images += 1
                return 200, {}
            case "POST", ["containers", "create"]:
                name = f"c{len(self.started) + len(self.containers)}"
                self.containers[name] = json.loads(body)
                return 201, {"Id": name}
            case "GET", ["containers", "json"]:
                return 200, [{"Id": name} for name in self.containers]
            case "POST", ["containers", name, "start"]:
                self.started.append(self.containers[name])
                return 204, None
            case "DELETE", ["containers", name]:
                del self.containers[name]
                return 204, None
        return 200, {}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DockerOfContainers]:
    engine = DockerOfContainers(tmp_path / "docker.sock")
    yield engine
    engine.stop()


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    (tmp_path / "probe.tar").write_bytes(b"the archive")
    return Docker(str(tmp_path / "docker.sock"), tmp_path / "probe.tar")


def test_warm_up_runs_two_containers_as_the_users_will_be_and_removes_them(
    engine: DockerOfContainers, docker: Docker
) -> None:
    docker.warm_up(JOINED)
    assert [spec["HostConfig"] for spec in engine.started] == [JOINED, JOINED]
    assert engine.containers == {}


def test_the_probe_is_loaded_once(engine: DockerOfContainers, docker: Docker) -> None:
    docker.warm_up(JOINED)
    docker.warm_up(JOINED)
    assert engine.images == 1


@pytest.mark.parametrize("step", ["/create", "/start", "/wait", "/logs"])
def test_a_refused_step_is_reported_and_leaves_no_container(
    engine: DockerOfContainers, docker: Docker, step: str
) -> None:
    engine.refuse = step
    with pytest.raises(HttpError, match="500") as caught:
        docker.warm_up(JOINED)
    assert caught.value.status == 502
    assert engine.containers == {}


def test_no_docker_is_an_error_with_a_reason(docker: Docker) -> None:
    with pytest.raises(HttpError, match="does not answer"):
        docker.warm_up(JOINED)
