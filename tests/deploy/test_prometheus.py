"""What stands in ``deploy/``, held to a real Prometheus that scrapes a real manager."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.support.managers import Lab, Manager, eventually, lab
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus, prometheus, promtool
from tests.support.served import served

from warmboot.manager.protocols import Until
from warmboot.model.tenants.boot import BootPolicy

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
EXAMPLE = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "warmboot.json"
TOKEN = "a-token-for-prometheus"

# What nothing happens to in this test: no worker is paused, nothing is collected.
EMPTY = {"Pauses and resumes"}

_NAME = re.compile(r"\b(?:warmboot|process)_\w+")
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> Iterator[tuple[str, str]]:
    """A panel's title and an expression of it, with Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for variable, value in (
                ("$__rate_interval", "5m"),
                ("$__range", "5m"),
                ("$job", ".*"),
                ("$instance", ".*"),
            ):
                text = text.replace(variable, value)
            yield panel["title"], text


def alerts() -> dict[str, str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


HOW_TO = DEPLOY.parent / "docs" / "how-to" / "monitoring.md"
USERS_OWN = """\
rule_files: [own.yml]
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: ["localhost:9090"]}]
"""


def blocks(language: str) -> list[str]:
    """The how-to's code in a language, for another folder than ``/etc/prometheus``."""
    return re.findall(rf"```{language}\n(.*?)```", HOW_TO.read_text(), re.DOTALL)


async def test_the_how_to_adds_to_a_configuration_and_replaces_none(tmp_path: Path) -> None:
    own = tmp_path / "prometheus.yml"
    own.write_text(USERS_OWN)
    (tmp_path / "own.yml").write_text("groups: []")
    for block in (one for one in blocks("sh") if "/etc/prometheus" in one):
        lines = block.replace("/etc/prometheus", str(tmp_path)).replace("-g prometheus ", "")
        commands = [
            line for line in lines.splitlines() if not line.startswith(("apt-get", "systemctl"))
        ]
        environment = {**os.environ, "WARMBOOT_TOKEN": TOKEN}
        script = ["bash", "-ec", "\n".join(commands)]
        await asyncio.to_thread(
            subprocess.run, script, check=True, cwd=DEPLOY.parent, env=environment, timeout=60
        )
    assert own.read_text() == USERS_OWN
    assert (tmp_path / "warmboot.token").read_text() == TOKEN
    (added,) = blocks("yaml")
    config = yaml.safe_load(USERS_OWN)
    for key, more in yaml.safe_load(added.replace("/etc/prometheus", str(tmp_path))).items():
        config[key] += more
    own.write_text(yaml.safe_dump(config))
    said = await promtool("check", "config", str(own), cwd=tmp_path)
    assert f"{len(alerts())} rules found" in said
    example = yaml.safe_load(EXAMPLE.read_text())
    assert yaml.safe_load(added)["scrape_configs"] == example["scrape_configs"]


@dataclass(frozen=True, slots=True)
class Scene:
    """Prometheus after it has seen what the manager did.

    A scrape that a busy machine does not answer in time leaves a gap until the next one.
    """

    prometheus: Prometheus
    exposed: dict[str, set[str]]
    """Every family that the manager shows, and the labels seen in it."""


@asynccontextmanager
async def pointed_at(port: int, folder: Path) -> AsyncIterator[Prometheus]:
    """Prometheus with the example's configuration, at a manager on ``port`` with a token."""
    token = folder / "token"
    token.write_text(TOKEN)
    example = EXAMPLE.read_text()
    for before, after in (
        ("127.0.0.1:18080", f"127.0.0.1:{port}"),
        ("/etc/prometheus/warmboot.token", str(token)),
        ("scrape_interval: 15s", "scrape_interval: 250ms"),
        ("evaluation_interval: 15s", "evaluation_interval: 250ms"),
        ("- alerts.yml", f"- {RULES}"),
    ):
        assert before in example
        example = example.replace(before, after)
    config = folder / "prometheus.yml"
    config.write_text(example)
    await promtool("check", "config", str(config), cwd=folder)
    async with prometheus(config, folder) as server:
        yield server


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("prometheus")
    async with (
        lab() as place,
        served(place.settings(port=free_port(), tokens=TOKEN)) as running,
        pointed_at(int(running.url.rpartition(":")[2]), folder) as server,
    ):
        manager, url = Manager(place, running.manager), running.url
        await manager.snapshot()
        await server.until('warmboot_snapshots{state="ready"} == 1')
        await make_boots(place, manager, server)
        await server.until(
            'sum(warmboot_boots_total{outcome="succeeded"}) == 6'
            ' and sum(warmboot_containers{state="exited"}) == 1'
        )
        shown = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(headers=shown, timeout=60) as http:
            assert (await http.get(f"{url}/v1/containers/nobody")).status_code == 404
            text = (await http.get(f"{url}/metrics")).text
        await server.until('warmboot_http_requests_total{status="404"} > 0')
        exposed: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            exposed[name] = {label for sample in family.samples for label in sample.labels}
        yield Scene(server, exposed)
        for container in await manager.containers.list(all_states=True):
            await manager.containers.delete(str(container.id), force=True)


async def make_boots(place: Lab, manager: Manager, server: Prometheus) -> None:
    """Three warm ones, one of them ending; one cold by wish, two cold because a restore fails."""
    await manager.run("cold", boot=BootPolicy.COLD)
    await manager.run("warm-1")
    await manager.run("warm-2")
    await manager.run("short", "true")
    await manager.wait("short", Until.EXITED)
    place.set(fail_restore=True)
    await manager.run("fallen-back-1")
    # A counter that is 2 when it is first seen has not increased, as Prometheus counts.
    await server.until('warmboot_failures_total{cause="restore-failed"} == 1')
    await manager.run("fallen-back-2")
    place.set(fail_restore=False)


# -- the files themselves --------------------------------------------------------------------------


async def test_the_alert_rules_are_valid() -> None:
    assert f"{len(alerts())} rules found" in await promtool(
        "check", "rules", RULES.name, cwd=RULES.parent
    )


async def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in await promtool("test", "rules", "alerts_test.yml", cwd=RULES.parent)


def test_every_alert_is_tested_both_ways() -> None:
    fires: set[str] = set()
    rests: set[str] = set()
    for case in yaml.safe_load((RULES.parent / "alerts_test.yml").read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else rests).add(check["alertname"])
    assert fires == rests == set(alerts())


def test_panels_lie_beside_each_other_and_have_ids_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


# -- with a manager --------------------------------------------------------------------------------


async def test_the_example_scrapes_a_manager_that_wants_a_token(scene: Scene) -> None:
    async def is_up() -> bool:
        (target,) = (await scene.prometheus.get("targets", state="active"))["activeTargets"]
        return (target["health"], target["lastError"]) == ("up", "")

    await eventually(is_up, "a scrape succeeds")


@pytest.mark.parametrize(
    "expression", [*(text for _, text in panels()), *alerts().values()], ids=lambda text: text[:60]
)
async def test_expressions_name_what_the_manager_shows(scene: Scene, expression: str) -> None:
    for name in _NAME.findall(expression):
        assert name in scene.exposed or _SUFFIX.sub("", name) in scene.exposed, name


@pytest.mark.parametrize(("title", "expression"), [*panels()], ids=lambda text: text[:60])
async def test_panels_have_data(scene: Scene, title: str, expression: str) -> None:
    # What only shows counts above zero has none of what did not happen.
    if title in EMPTY or expression.endswith("> 0"):
        await scene.prometheus.query(expression)
    else:
        await scene.prometheus.until(expression)


async def test_panels_of_what_happened_have_it(scene: Scene) -> None:
    """Those that hide zeros, too."""
    happened = {"Boots by method and reason", "Boots that failed", "Failures by cause"}
    of_each = {
        title: " or ".join(f"({text})" for name, text in panels() if name == title)
        for title in happened
    }
    for expression in of_each.values():
        await scene.prometheus.until(expression)


async def test_every_rule_is_evaluated(scene: Scene) -> None:
    for expression in alerts().values():
        await scene.prometheus.query(expression)
    groups = (await scene.prometheus.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(alerts())
    assert {rule["health"] for rule in rules} == {"ok"}, rules


async def test_what_prometheus_has_is_what_happened(scene: Scene) -> None:
    boots = "sum(warmboot_boots_total{%s})"
    cause = '{kind="runtime-snapshot.boot-failed",cause="restore-failed"}'
    for expression, value in (
        (boots % 'method="warm",outcome="succeeded"', 3),
        (boots % 'method="cold",reason="requested",outcome="succeeded"', 1),
        (boots % 'method="cold",reason="restore_failed",outcome="succeeded"', 2),
        (boots % 'method="warm",reason="restore_failed",outcome="failed"', 2),
        ('sum(warmboot_boot_seconds_count{method="warm"})', 3),
        ('sum(warmboot_boot_stage_seconds_count{method="warm",stage="restore"})', 3),
        ('sum(warmboot_snapshot_boots_total{outcome="failed"})', 2),
        ('warmboot_container_exits_total{outcome="succeeded"}', 1),
        ("sum(warmboot_snapshot_leases)", 3),
        (f"warmboot_failures_total{cause}", 2),
    ):
        await scene.prometheus.until(f"{expression} == {value}")


async def test_a_manager_that_goes_away_is_told(tmp_path: Path) -> None:
    port = free_port()
    async with lab() as place, pointed_at(port, tmp_path) as server:
        async with served(place.settings(port=port, tokens=TOKEN)) as running:
            stranger = {"Authorization": "Bearer no"}
            async with httpx.AsyncClient(headers=stranger, timeout=60) as http:
                assert (await http.get(f"{running.url}/metrics")).status_code == 401
            await server.until('up{job="warmboot"} == 1')
        await server.until('up{job="warmboot"} == 0')
        await server.until('ALERTS{alertname="WarmbootDown",alertstate="pending"}')
