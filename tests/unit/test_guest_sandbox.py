"""The sandbox that a user's container joins, against a fake Docker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.guests import FakeSystem
from typing_extensions import override

from warmboot.guest.docker import Docker, configure
from warmboot.guest.sandbox import JOINED, NAME, SHIM_GROUP, Sandbox
from warmboot.guest.wire import HttpError
from warmboot.host.guest.guest_containers import SANDBOX

HOSTS = "/var/lib/docker/containers/1/hosts"


class DockerWithSandbox(Docker):
    """As much of Docker as the sandbox uses, without a socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("", folder / "probe.tar")
        self.exists = False
        self.asked: list[str] = []
        self.spec: Any = None

    @override
    def load_image(self) -> None:
        self.asked.append("load")

    @override
    def call(
        self,
        method: str,
        path: str,
        *,
        document: Any = None,
        body: bytes = b"",
        accept: tuple[int, ...] = (),
    ) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path.partition('?')[0].rpartition('/')[2]}")
        if method == "GET" and not self.exists:
            return 404, b"{}"
        if method == "DELETE" and "/containers/" in path:
            self.exists = False
        if path.startswith("/containers/create"):
            self.exists, self.spec = True, document
        details = {"NetworkSettings": {"IPAddress": "172.17.0.2"}, "HostsPath": HOSTS}
        return 200, json.dumps(details).encode()


def test_it_is_made_once_and_reached(tmp_path: Path) -> None:
    docker, system = DockerWithSandbox(tmp_path), FakeSystem()
    sandbox = Sandbox(system, docker)
    sandbox.ensure()
    assert docker.asked == ["GET json", "load", "POST create", "POST start", "GET json"]
    assert [(rule[0], rule[1]) for rule in system.rules] == [
        ("nat", "PREROUTING"),
        ("filter", "DOCKER-USER"),
    ]
    sandbox.ensure()
    assert len(docker.asked) == 5


def test_an_agent_that_was_started_again_finds_it_and_adds_no_second_rule(tmp_path: Path) -> None:
    docker, system = DockerWithSandbox(tmp_path), FakeSystem()
    Sandbox(system, docker).ensure()
    docker.asked.clear()
    Sandbox(system, docker).ensure()
    assert docker.asked == ["GET json", "POST start", "GET json"]
    assert len(system.rules) == 2


def test_the_vms_name_is_in_its_hosts_file_also_when_it_changes(tmp_path: Path) -> None:
    system = FakeSystem()
    sandbox = Sandbox(system, DockerWithSandbox(tmp_path))
    for name in ("warmboot-template", "web"):
        system.name = name
        sandbox.ensure()
        assert system.files[HOSTS] == f"127.0.0.1\tlocalhost\n172.17.0.2\t{name}\n"


def test_a_hosts_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    system = FakeSystem()
    system.fail_at = HOSTS
    with pytest.raises(HttpError, match="hosts file") as caught:
        Sandbox(system, DockerWithSandbox(tmp_path)).ensure()
    assert caught.value.status == 500


def test_a_rule_that_is_refused_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    docker, system = DockerWithSandbox(tmp_path), FakeSystem()
    system.fail_at = "iptables"
    sandbox = Sandbox(system, docker)
    with pytest.raises(HttpError, match="iptables"):
        sandbox.ensure()
    system.fail_at = ""
    sandbox.ensure()
    assert len(system.rules) == 2


def test_host_and_guest_agree_on_what_a_container_joins(tmp_path: Path) -> None:
    docker = DockerWithSandbox(tmp_path)
    Sandbox(FakeSystem(), docker).ensure()
    assert SANDBOX == JOINED
    assert JOINED["NetworkMode"] == f"container:{NAME}"
    assert docker.spec["HostConfig"]["Annotations"] == SHIM_GROUP == JOINED["Annotations"]


def test_a_docker_that_is_handed_over_has_nothing_of_ours(tmp_path: Path) -> None:
    docker, system = DockerWithSandbox(tmp_path), FakeSystem()
    sandbox = Sandbox(system, docker)
    sandbox.ensure()
    docker.asked.clear()
    sandbox.remove()
    assert docker.asked == ["GET json", "DELETE warmboot-sandbox", "DELETE probe:latest"]
    assert system.rules == []
    docker.asked.clear()
    sandbox.remove()  # in a fork of it
    assert docker.asked == []
    sandbox.ensure()
    sandbox.remove()
    assert not docker.exists


def test_an_agent_that_was_started_again_hands_over_all_the_same(tmp_path: Path) -> None:
    docker, system = DockerWithSandbox(tmp_path), FakeSystem()
    Sandbox(system, docker).ensure()
    Sandbox(system, docker).remove()
    assert not docker.exists
    assert system.rules == []
    docker.asked.clear()
    Sandbox(system, docker).remove()
    assert docker.asked == ["GET json", "DELETE probe:latest"], "and does so again"


def test_docker_is_told_which_engine_it_is() -> None:
    system = FakeSystem()
    system.files["/etc/docker/daemon.json"] = '{"mtu": 1400}'
    configure(system, {"labels": ["warmboot.engine=ci"]})
    assert json.loads(system.files["/etc/docker/daemon.json"]) == {
        "mtu": 1400,
        "labels": ["warmboot.engine=ci"],
    }
    assert system.calls[-1] == ("hang up", "/run/docker.pid")
