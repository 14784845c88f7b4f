"""The sandbox that a user's container joins, against a fake Docker."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from warmboot.guest.docker import Docker
from warmboot.guest.sandbox import JOINED, NAME, SHIM_GROUP, Sandbox
from warmboot.guest.wire import HttpError
from warmboot.host.guest.guest_containers import SANDBOX


class DockerWithSandbox(Docker):
    """As much of Docker as the sandbox uses, without a socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("", folder / "probe.tar")
        self.hosts = folder / "hosts"
        self.hosts.write_text("what Docker wrote")
        self.exists = False
        self.asked: list[str] = []
        self.spec: Any = None

    @override
    def load_probe(self) -> None:
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
        if path.startswith("/containers/create"):
            self.exists, self.spec = True, document
        details = {"NetworkSettings": {"IPAddress": "172.17.0.2"}, "HostsPath": str(self.hosts)}
        return 200, json.dumps(details).encode()


class Rules:
    """An iptables that keeps rules."""

    def __init__(self) -> None:
        self.kept: list[Sequence[str]] = []
        self.refuse = False

    def __call__(self, command: Sequence[str]) -> int:
        *_, table, action, chain = command[:6]
        rule = (table, chain, *command[6:])
        if action == "-C":
            return 0 if rule in self.kept else 1
        self.kept.append(rule)
        return int(self.refuse)


def test_it_is_made_once_and_reached(tmp_path: Path) -> None:
    docker, rules = DockerWithSandbox(tmp_path), Rules()
    sandbox = Sandbox(docker, rules)
    sandbox.ensure()
    assert docker.asked == ["GET json", "load", "POST create", "POST start", "GET json"]
    assert [(rule[0], rule[1]) for rule in rules.kept] == [
        ("nat", "PREROUTING"),
        ("filter", "DOCKER-USER"),
    ]
    sandbox.ensure()
    assert len(docker.asked) == 5


def test_an_agent_that_was_started_again_finds_it_and_adds_no_second_rule(tmp_path: Path) -> None:
    docker, rules = DockerWithSandbox(tmp_path), Rules()
    Sandbox(docker, rules).ensure()
    docker.asked.clear()
    Sandbox(docker, rules).ensure()
    assert docker.asked == ["GET json", "POST start", "GET json"]
    assert len(rules.kept) == 2


def test_the_vms_name_is_in_its_hosts_file_also_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = DockerWithSandbox(tmp_path)
    sandbox = Sandbox(docker, Rules())
    for name in ("warmboot-template", "web"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        sandbox.ensure()
        assert docker.hosts.read_text() == f"127.0.0.1\tlocalhost\n172.17.0.2\t{name}\n"


def test_a_rule_that_is_refused_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    docker, rules = DockerWithSandbox(tmp_path), Rules()
    rules.refuse = True
    sandbox = Sandbox(docker, rules)
    with pytest.raises(HttpError, match="iptables"):
        sandbox.ensure()
    rules.refuse = False
    rules.kept.clear()
    sandbox.ensure()
    assert len(rules.kept) == 2


def test_host_and_guest_agree_on_what_a_container_joins(tmp_path: Path) -> None:
    docker = DockerWithSandbox(tmp_path)
    Sandbox(docker, Rules()).ensure()
    assert SANDBOX == JOINED
    assert JOINED["NetworkMode"] == f"container:{NAME}"
    assert docker.spec["HostConfig"]["Annotations"] == SHIM_GROUP == JOINED["Annotations"]
