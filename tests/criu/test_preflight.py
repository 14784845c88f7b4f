"""What a machine lacks is found, explained and mended, without losing what was there."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.dockerd import CRIU_WRAPPER, PrivateDockerd
from tests.support.preflights import named, preflight

from warmboot.criu.setup.install import Installed
from warmboot.criu.setup.preflight import DAEMON_JSON, Preflight
from warmboot.criu.setup.settings_files import (
    daemon_settings,
    enable_experimental,
    enable_tcp_established,
    has_tcp_established,
)
from warmboot.docker.peer import engine_process
from warmboot.model.errors import HostError

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_a_good_machine_has_no_problem(dockerd: PrivateDockerd, tmp_path: Path) -> None:
    ready = preflight(tmp_path, dockerd.socket)
    enable_tcp_established(ready.runc_conf)
    findings = await ready.check()
    assert [finding for finding in findings if not finding.ok] == []
    assert {
        "criu",
        "criu-check",
        "engine",
        "experimental",
        "engine-version",
        "host-network",
        "live-restore",
        "other-users",
        "tcp-established",
        "disk",
        "root",
    } == set(named(findings))


async def test_every_problem_says_why_it_matters_and_what_to_do(tmp_path: Path) -> None:
    bare = replace(preflight(tmp_path, tmp_path / "no.sock"), criu_wrapper=tmp_path / "criu")
    findings = named(await bare.check())
    assert not findings["engine"].ok
    assert not findings["tcp-established"].ok
    for finding in findings.values():
        assert finding.ok or (finding.problem and finding.why and finding.remedy)
        assert finding.remedy.count("doctor --fix") == int(finding.fixable)


async def test_a_criu_too_old_for_the_kernel_is_told(tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "criu"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/sh\necho Version: 3.1\n")
    wrapper.chmod(0o755)
    old = replace(preflight(tmp_path, tmp_path / "no.sock"), criu_wrapper=wrapper)
    criu = named(await old.check())["criu"]
    assert (criu.ok, criu.fixable) == (False, True)
    assert "too old" in criu.problem


async def test_fixing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    machine = preflight(tmp_path, tmp_path / "no.sock")
    machine.daemon_json.parent.mkdir()
    machine.daemon_json.write_text('{"log-driver": "journald", "dns": ["10.0.0.1"]}')
    machine.runc_conf.parent.mkdir()
    machine.runc_conf.write_text("# mine\nlog-level 4")
    first = await machine.fix()
    assert len(first) == 2
    assert all(change.ok for change in first)
    assert json.loads(machine.daemon_json.read_text()) == {
        "log-driver": "journald",
        "dns": ["10.0.0.1"],
        "experimental": True,
    }
    assert machine.runc_conf.read_text() == "# mine\nlog-level 4\ntcp-established\n"
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert await machine.fix() == ()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


async def test_the_old_daemon_json_is_kept_beside_the_new(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"debug": true}')
    path.chmod(0o600)
    backup = enable_experimental(path)
    assert backup is not None
    assert backup.read_text() == '{"debug": true}'
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("broken", ["{", '{"a": 1,}', "[]", '"text"'])
async def test_a_broken_daemon_json_is_left_alone_and_told(tmp_path: Path, broken: str) -> None:
    machine = preflight(tmp_path, tmp_path / "no.sock")
    machine.daemon_json.parent.mkdir()
    machine.daemon_json.write_text(broken)
    failed = [change for change in await machine.fix() if not change.ok]
    assert len(failed) == 1
    assert "nothing was changed" in failed[0].details
    assert [path.name for path in machine.daemon_json.parent.iterdir()] == ["daemon.json"]
    assert machine.daemon_json.read_text() == broken


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_daemon_json_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    assert daemon_settings(path) == {}


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("tcp-established\n", True),
        ("  tcp-established  # needed\n", True),
        ("--tcp-established\n", True),
        ("# tcp-established\n", False),
        ("tcp-established-not\n", False),
        ("", False),
    ],
)
def test_whether_the_option_is_set(tmp_path: Path, text: str, there: bool) -> None:
    path = tmp_path / "runc.conf"
    path.write_text(text)
    assert has_tcp_established(path) is there
    assert (enable_tcp_established(path) is None) is there
    assert has_tcp_established(path)
    assert path.read_text().startswith(text)


async def test_an_engine_that_is_experimental_already_is_left_alone(
    dockerd: PrivateDockerd, tmp_path: Path
) -> None:
    """It may be so by its command line; dockerd refuses to start if the file says it, too."""
    ran = tmp_path / "ran"
    machine = replace(preflight(tmp_path, dockerd.socket), restart_command=("touch", str(ran)))
    changes = await machine.fix(restart_engine=True)
    assert [change.what for change in changes] == [f"added tcp-established to {machine.runc_conf}"]
    assert not machine.daemon_json.exists()
    assert not ran.exists()


async def test_the_engine_itself_says_which_files_it_reads(
    dockerd: PrivateDockerd, tmp_path: Path
) -> None:
    found = engine_process(dockerd.socket)
    assert found is not None
    assert found.config == dockerd.config
    assert found.path.startswith(f"{dockerd.criu_wrapper.parent}:")
    asked = await Preflight.of_engine(dockerd.socket)
    assert (asked.daemon_json, asked.engine_path) == (dockerd.config, found.path)
    assert asked.restart_command == (), "only the machine's own engine is restarted"
    assert engine_process(tmp_path / "no.sock") is None
    assert (await Preflight.of_engine(tmp_path / "no.sock")).daemon_json == DAEMON_JSON


async def test_who_is_no_engine_is_not_asked_for_its_files(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        assert engine_process(tmp_path / "other.sock") is None


async def test_a_criu_where_the_engine_does_not_look_is_told(
    dockerd: PrivateDockerd, tmp_path: Path
) -> None:
    machine = replace(preflight(tmp_path, dockerd.socket), engine_path=str(tmp_path))
    criu = named(await machine.check())["criu"]
    assert not criu.ok
    assert str(tmp_path) in criu.problem
    assert str(CRIU_WRAPPER.parent) in criu.remedy


async def test_the_engine_is_restarted_only_when_asked(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    machine = replace(
        preflight(tmp_path, tmp_path / "no.sock"),
        restart_command=("touch", str(ran)),
        ready_timeout_s=0.1,
    )
    await machine.fix()
    assert not ran.exists()
    changes = await machine.fix(restart_engine=True)
    assert ran.exists()
    assert not changes[-1].ok
    assert "is not there" in changes[-1].details


async def test_a_restart_that_fails_is_told(tmp_path: Path) -> None:
    machine = replace(preflight(tmp_path, tmp_path / "no.sock"), restart_command=("false",))
    changes = await machine.fix(restart_engine=True)
    assert not changes[-1].ok


async def test_an_engine_that_somebody_started_by_hand_is_not_restarted(tmp_path: Path) -> None:
    machine = replace(preflight(tmp_path, tmp_path / "no.sock"), restart_command=())
    changes = await machine.fix(restart_engine=True)
    assert not changes[-1].ok
    assert "restart it as you" in changes[-1].details


async def test_an_installation_that_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    async def failing(prefix: Path, wrapper: Path) -> Installed:
        raise HostError("no mirror answers")

    machine = replace(preflight(tmp_path, tmp_path / "no.sock"), install=failing)
    changes = await machine.fix()
    assert [change.ok for change in changes] == [False, True, True]
