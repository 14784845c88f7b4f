"""What the manager itself logs of a boot."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs
from tests.support.managers import Manager

from warmboot.bootstrap.logs import spec_form
from warmboot.model.container import Container


class Lines:
    """What was logged of something, each message behind its level."""

    def __init__(self, entries: list[structlog.typing.EventDict]) -> None:
        self._entries = entries

    def of(self, subject: object) -> list[str]:
        return [
            f"{entry['log_level']} {entry['event']}"
            for entry in self._entries
            if str(subject) in entry["event"]
        ]


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as entries:
        yield Lines(entries)


async def logged(manager: Manager, lines: Lines, container: Container, count: int) -> list[str]:
    """The last of them come a moment after it runs."""

    async def look() -> list[str] | None:
        found = lines.of(container.id)
        return found if len(found) == count else None

    return await manager.until(look, f"{count} lines")


async def test_a_warm_boot_is_logged_as_specified(manager: Manager, lines: Lines) -> None:
    await manager.snapshot()
    container = await manager.run()
    created, provisioned, stages = await logged(manager, lines, container, 3)
    assert re.fullmatch(
        rf"info Container {container.id} VM created: vm-\w+ via warm boot in \d+\.\d\ds", created
    )
    assert re.fullmatch(
        rf"info Container {container.id} fully provisioned in \d+\.\d\ds "
        r"via warm boot \(saved ~\d+s\)",
        provisioned,
    )
    assert stages.startswith(f"info Container {container.id} stages: snapshot ")


async def test_a_cold_boot_is_logged_as_specified(manager: Manager, lines: Lines) -> None:
    container = await manager.run()
    failed, created, provisioned, stages = await logged(manager, lines, container, 4)
    assert failed == (
        f"warning Warm boot failed for container {container.id}, "
        "falling back to cold boot: No runtime snapshot available"
    )
    assert re.fullmatch(
        rf"info Container {container.id} VM created: vm-\w+ via cold boot in \d+\.\d\ds", created
    )
    assert re.fullmatch(
        rf"info Container {container.id} fully provisioned in \d+\.\d\ds via cold boot",
        provisioned,
    )
    assert stages.startswith(f"info Container {container.id} stages: snapshot ")


def test_the_levels_are_named_as_specified() -> None:
    line = spec_form(None, "", {"level": "warning", "event": "Warm boot failed"})
    assert line.split(maxsplit=1)[0] == "WARN"
    line = spec_form(None, "", {"level": "info", "timestamp": "T", "event": "x", "a": 1})
    assert line == "T INFO x a=1"
