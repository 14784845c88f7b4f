"""What the doctor says about engines: versions, networks, rootless ones, and what to do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from warmboot.criu.setup import findings
from warmboot.docker.facts import EngineFacts

ENGINE = EngineFacts(
    version="27.5.1",
    api_version="1.47",
    experimental=True,
    kernel="6.18.44",
    architecture="x86_64",
    data_root=Path("/var/lib/docker"),
    cgroup_version="2",
    storage_driver="overlay2",
    networks=("bridge", "host", "null"),
    security=("name=seccomp,profile=builtin", "name=cgroupns"),
)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("20.10.24+dfsg1", "on 'host' only; it is not known"),
        ("26.0.0", "on 'host' only; Docker 26.0.0 cannot restore on the network 'bridge'"),
        ("26.1.5", "on every network"),
        ("28.0.1", "on 'host' only; Docker 28.0.1 cannot restore on the network 'bridge'"),
    ],
)
def test_it_says_on_which_network_an_engine_restores(version: str, said: str) -> None:
    found = findings.version(replace(ENGINE, version=version))
    assert found.ok
    assert said in found.note


@pytest.mark.parametrize("version", ["20.10.24", "25.0.0", "26.0.0", "28.5.2"])
def test_with_the_runtime_every_engine_restores_on_bridges_too(version: str) -> None:
    runtimes = {"warmboot": "/opt/warmboot/runtime/warmboot-runtime"}
    found = findings.version(replace(ENGINE, version=version, runtimes=runtimes))
    assert (found.ok, found.note) == (True, "restores on 'host', 'none' and bridges")


@pytest.mark.parametrize("version", ["25.0.0", "25.0.3"])
def test_an_engine_that_cannot_restore_at_all_is_told(version: str) -> None:
    found = findings.version(replace(ENGINE, version=version))
    assert not found.ok
    assert version in found.problem
    assert "25.0.4" in found.remedy


def test_a_rootless_engine_has_no_network_of_the_host() -> None:
    assert findings.host_network(ENGINE).ok
    found = findings.host_network(replace(ENGINE, security=(*ENGINE.security, "name=rootless")))
    assert not found.ok
    assert "without root" in found.problem
    assert not findings.host_network(replace(ENGINE, networks=("bridge", "null"))).ok


def test_a_missing_capability_is_named_with_what_it_means(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t000001fffeffffff\n")
    if os.geteuid() == 0:
        found = findings.other_users(status)
        assert found.ok
        assert "CAP_SYS_RESOURCE" in found.note
        assert "not root's cannot be paused" in found.note
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert findings.other_users(status).note == ""


def test_it_says_what_becomes_of_workers_when_the_engine_ends() -> None:
    found = findings.live_restore(ENGINE)
    assert found.ok
    assert "off: running workers end when dockerd does" in found.note
    assert "go on" in findings.live_restore(replace(ENGINE, live_restore=True)).note


def test_room_is_looked_for_where_criu_writes_first_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert findings.disk(tmp_path, tmp_path).ok
    assert not findings.disk(tmp_path, tmp_path / "gone").ok
    monkeypatch.setattr(findings, "MIN_SCRATCH_BYTES", 1 << 60)
    found = findings.disk(tmp_path, Path("/dev/shm"))
    assert not found.ok
    assert "/dev/shm" in found.problem
    assert str(tmp_path) not in found.problem


def test_what_is_fixable_names_the_command_once_and_nothing_else_does(tmp_path: Path) -> None:
    plain = replace(ENGINE, experimental=False, version="25.0.1", networks=(), data_root=tmp_path)
    found = [
        findings.experimental(plain),
        findings.version(plain),
        findings.host_network(plain),
        findings.tcp_established(tmp_path / "runc.conf"),
        findings.reachable(None, tmp_path / "no.sock", "gone"),
        findings.disk(tmp_path / "gone"),
        findings.criu_not_found("/bin", tmp_path / "criu"),
    ]
    for one in found:
        assert not one.ok
        assert one.problem, one.name
        assert one.why, one.name
        assert one.remedy, one.name
        assert one.remedy.count("doctor --fix") == int(one.fixable), one.name
