"""What health checks have found, on the command line."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Cli

CHECKS = {"well": "true", "ill": "false", "new": "later"}


@pytest.fixture
def checked(cli: Cli) -> Cli:
    for name, check in CHECKS.items():
        cli("run", "-d", "--name", name, "--health-cmd", check, "busybox")
    cli("run", "-d", "--name", "plain", "busybox")
    return cli


def test_ps_and_inspect_show_it_as_docker_does(checked: Cli) -> None:
    lines = checked("ps", "--format", "{{.Names}} {{.Status}}").stdout.splitlines()
    shown = {line.split()[0]: line.partition("(")[2] for line in lines}
    assert (shown["well"], shown["ill"]) == ("healthy)", "unhealthy)")
    assert (shown["new"], shown["plain"]) == ("health: starting)", "")
    assert checked("inspect", "-f", "{{.Health}}", "ill", "plain").stdout == "unhealthy\nnone\n"
    assert "exit code 1: said\n" in checked("inspect", "ill").stdout
    assert "last check" not in checked("inspect", "plain").stdout
    ill, plain = json.loads(checked("inspect", "--json", "ill", "plain").stdout)
    assert (ill["health"], plain["health"], plain["health_report"]) == ("unhealthy", "none", None)
    (probe,) = ill["health_report"]["probes"]
    assert (ill["health_report"]["failing_streak"], probe["output"]) == (1, "said\n")


def test_inspects_templates_have_dockers_state(checked: Cli) -> None:
    def shown(template: str, name: str = "ill") -> str:
        return checked("inspect", "-f", template, name).stdout.removesuffix("\n")

    assert shown("{{.State.Health.Status}} {{.State.Running}} {{.State.ExitCode}}") == (
        "unhealthy true 0"
    )
    health = json.loads(shown("{{json .State.Health}}"))
    (run,) = health["Log"]
    assert (health["Status"], health["FailingStreak"]) == ("unhealthy", 1)
    assert (run["ExitCode"], run["Output"], *sorted(run)) == (
        *(1, "said\n", "End", "ExitCode", "Output", "Start"),
    )
    assert json.loads(shown("{{json .State}}"))["Health"] == health
    assert shown("{{.State.Health}} {{.State.Status}} {{.State}}", "plain") == (
        "<no value> running running"
    )
    assert json.loads(shown("{{json .}}"))["health_report"]["status"] == "unhealthy"


def test_ps_filters_by_it(checked: Cli) -> None:
    def names(*filters: str) -> set[str]:
        words = [word for one in filters for word in ("-f", one)]
        return set(checked("ps", "--format", "{{.Names}}", *words).stdout.split())

    assert names("health=healthy") == {"well"}
    assert names("health=starting", "health=none") == {"new", "plain"}
    refused = checked("ps", "-f", "health=good", COLUMNS="200")
    assert refused.returncode == 2
    assert "use one of none, starting, healthy, unhealthy" in refused.stderr


def test_wait_waits_for_it(checked: Cli) -> None:
    for name, code, said in (("well", 0, "healthy"), ("ill", 1, "unhealthy"), ("plain", 1, "none")):
        done = checked("wait", "--until", "healthy", "--timeout", "0.1", name)
        assert (done.returncode, done.stdout) == (code, f"{said}\n")
