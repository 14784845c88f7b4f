"""The command line of the bench, with groups that measure nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench import __main__ as bench
from bench.groups import GROUPS, Group
from bench.measure import TARGETS, Failed
from bench.progress import Progress
from rich.console import Console
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class _FakeGroup(Group):
    begun: list[str] = field(default_factory=list)
    ends: BaseException | None = None
    kept: dict[str, float] = field(default_factory=dict)

    @override
    async def measure(self, progress: Progress) -> dict[str, float]:
        progress.keep(self.kept)
        for _ in progress.rounds("rounds", 2):
            self.begun.append(self.name)
        if self.ends is not None:
            raise self.ends
        return {f"{self.kinds[0]}.figure": 1.0}


def _group(
    name: str, ends: BaseException | None = None, kept: dict[str, float] | None = None
) -> _FakeGroup:
    summary = f"{name}'s summary"
    return _FakeGroup(
        name, summary, "no.module", (name,), needs_root=False, ends=ends, kept=kept or {}
    )


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*words: str, groups: list[_FakeGroup]) -> tuple[int, dict[str, Any]]:
        output = tmp_path / "results" / "run.json"
        by_name = {group.name: group for group in groups}
        code = bench.main([*words, "--output", str(output)], by_name)
        return code, json.loads(output.read_text())

    return run


def test_without_a_name_all_groups_are_measured(run: Run) -> None:
    code, results = run(groups=[_group("one"), _group("two")])
    assert code == 0
    assert results["figures"] == {"one.figure": 1.0, "two.figure": 1.0}


def test_a_named_group_is_measured_once_and_alone(run: Run) -> None:
    one, two = _group("one"), _group("two")
    code, results = run("two", "two", groups=[one, two])
    assert (code, results["figures"]) == (0, {"two.figure": 1.0})
    assert (one.begun, two.begun) == ([], ["two", "two"])
    assert results["groups"]["measured"] == ["two"]


@pytest.mark.parametrize("ends", [Failed("no luck"), SystemExit("no luck"), ValueError("no luck")])
def test_a_group_that_fails_leaves_the_others_and_the_exit_code_tells(
    run: Run, ends: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    code, results = run(groups=[_group("one", ends), _group("two")])
    assert code == 1
    assert results["figures"] == {"two.figure": 1.0}
    assert list(results["groups"]["failed"]) == ["one"]
    assert "no luck" in capsys.readouterr().err


def test_a_group_that_fails_late_keeps_what_it_has_measured(run: Run) -> None:
    code, results = run(groups=[_group("one", Failed("no luck"), kept={"one.early": 2.0})])
    assert (code, results["figures"]) == (1, {"one.early": 2.0})
    assert (results["groups"]["measured"], list(results["groups"]["failed"])) == ([], ["one"])


def test_an_interrupted_run_keeps_what_it_has_measured(run: Run) -> None:
    three = _group("three")
    code, results = run(groups=[_group("one"), _group("two", KeyboardInterrupt()), three])
    assert (code, results["figures"], three.begun) == (130, {"one.figure": 1.0}, [])


def test_a_run_that_is_interrupted_at_once_leaves_the_results_of_the_one_before(
    run: Run,
) -> None:
    run(groups=[_group("one")])
    code, results = run(groups=[_group("two", KeyboardInterrupt())])
    assert (code, results["figures"]) == (130, {"one.figure": 1.0})


def test_a_run_tells_its_group_and_which_round_of_how_many(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(groups=[_group("one"), _group("two")])
    told = capsys.readouterr()
    assert "[two 0:00:00] rounds: round 2 of 2" in told.err
    assert "two: two's summary (2 of 2)" in told.err
    assert "one.figure" in told.out


def test_the_time_that_is_told_is_the_groups_own() -> None:
    times = iter([100.0, 100.0, 165.9])
    console = Console(width=80, force_terminal=False)
    progress = Progress(console, "boot", lambda: next(times))
    with console.capture() as told, progress.shown():
        progress.tell("building a snapshot")
    assert told.get().splitlines() == [
        "[boot 0:00:00] begins",
        "[boot 0:01:05] building a snapshot",
    ]


@pytest.mark.parametrize("words", [["--help"], ["--list"], ["nonsense"], ["--nonsense"]])
def test_help_lists_and_mistakes_measure_nothing(words: list[str]) -> None:
    one = _group("one")
    try:
        code = bench.main(words, {"one": one})
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    assert code == (2 if "nonsense" in words[0] else 0)
    assert one.begun == []


def test_the_list_has_every_group_and_every_figure_that_must_reach_something() -> None:
    told = bench.listed(GROUPS)
    assert [name for name in (*GROUPS, *TARGETS) if f"{name} " not in told] == []
    assert [name for name in TARGETS if told.count(f" {name} ") != 1] == []
