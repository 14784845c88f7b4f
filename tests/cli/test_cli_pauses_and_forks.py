"""``warmboot pause``, ``unpause``, ``park``, ``wake`` and ``fork``, of containers and engines."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Cli

from warmboot.cli import completion


@pytest.fixture(autouse=True)
def both(cli: Cli) -> None:
    """A container and an engine run."""
    assert cli("run", "-d", "--name", "web", "busybox").returncode == 0
    assert cli("engine", "create", "ci").returncode == 0


def test_a_container_is_paused_shown_so_and_goes_on(cli: Cli) -> None:
    assert cli("pause", "web").stdout == "web\n"
    assert "(Paused)" in cli("ps").stdout
    assert cli("ps", "-q", "--filter", "status=paused").stdout != ""
    assert cli("wait", "--until", "running", "web").stdout == "paused\n"
    assert cli("rm", "web").returncode == 1
    refused = cli("pause", "web", "nothing")
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert "web is not running" in refused.stderr
    assert cli("unpause", "web").stdout == "web\n"
    assert "(Paused)" not in cli("ps").stdout
    assert "web is not paused" in cli("unpause", "web").stderr
    cli("pause", "web")
    assert cli("stop", "web").stdout == "web\n"


def test_an_engine_is_paused_shown_so_and_goes_on(cli: Cli) -> None:
    assert cli("engine", "pause", "ci").stdout == "ci\n"
    assert "(Paused)" in cli("engine", "ls").stdout
    assert cli("engine", "start", "ci").returncode == 1
    assert cli("engine", "unpause", "ci").stdout == "ci\n"
    assert "(Paused)" not in cli("engine", "ls").stdout
    assert "is not paused" in cli("engine", "unpause", "ci").stderr


def test_what_has_the_name_is_forked(cli: Cli) -> None:
    assert cli("fork", "web", "-n", "2").stdout == "web-1\nweb-2\n"
    assert cli("fork", "ci").stdout == "ci-1\n"
    absent = cli("fork", "nothing")
    assert absent.returncode == 1
    assert "there is no container and no engine nothing" in absent.stderr
    cli("engine", "create", "web")
    unclear = cli("fork", "web")
    assert unclear.returncode == 1
    assert "there is a container web and an engine web" in unclear.stderr
    assert cli("fork", "web", "--type", "engine").stdout == "web-1\n"
    assert cli("fork", "--type", "container", "web-1").stdout == "web-1-1\n"
    assert cli("fork", "--writable-folders", "web-1-1").stdout == "web-1-1-1\n"
    assert cli("fork", "web", "-n", "0").returncode == 2
    many = cli("fork", "ci", "-n", "2000")
    assert (many.stdout, many.returncode) == ("", 1)
    assert "1024" in many.stderr
    cli("engine", "pause", "ci")
    assert "the engine ci is paused, unpause it first" in cli("fork", "ci").stderr


def test_completion_offers_what_can_be_done_with(
    cli: Cli, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMBOOT_URL", env["WARMBOOT_URL"])
    monkeypatch.setattr(completion, "ANSWER_TIMEOUT_S", 60.0)
    assert completion.forkable_names("") == ["ci", "web"]
    cli("pause", "web")
    cli("engine", "pause", "ci")
    assert completion.forkable_names("") == []
    assert completion.paused_names("w") == ["web"]
    assert completion.running_names("") == []
    assert completion.living_names("") == ["web"]


def test_a_container_is_parked_shown_so_and_wakes(
    cli: Cli, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMBOOT_URL", env["WARMBOOT_URL"])
    monkeypatch.setattr(completion, "ANSWER_TIMEOUT_S", 60.0)
    assert cli("park", "web").stdout == "web\n"
    assert "Parked" in cli("ps").stdout
    assert cli("ps", "-q", "--filter", "status=parked").stdout != ""
    assert completion.parked_names("") == ["web"]
    assert cli("rm", "web").returncode == 1
    assert "web is not running" in cli("park", "web").stderr
    assert cli("wake", "web").stdout == "web\n"
    assert "Parked" not in cli("ps").stdout
    assert "web is not parked" in cli("wake", "web").stderr
    cli("park", "web")
    assert cli("start", "web").stdout == "web\n"
    cli("park", "web")
    assert cli("rm", "-f", "web").stdout == "web\n"


def test_an_engine_is_parked_shown_so_and_wakes(cli: Cli) -> None:
    assert cli("engine", "park", "ci").stdout == "ci\n"
    assert "Parked" in cli("engine", "ls").stdout
    assert cli("engine", "wake", "ci").stdout == "ci\n"
    assert "Parked" not in cli("engine", "ls").stdout
    assert "is not parked" in cli("engine", "wake", "ci").stderr
