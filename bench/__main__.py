"""``make bench``: all figures or those of some groups, as a table and as JSON."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench.groups import GROUPS, Group
from bench.measure import document, store, table
from bench.progress import Progress, spelled

RESULTS = Path(__file__).parent / "results" / "latest.json"
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


@dataclass(slots=True)
class Results:
    figures: dict[str, float] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.interrupted else FAILED if self.failed else 0


def run(groups: Sequence[Group], console: Console) -> Results:
    """One after the other; what has been measured is kept, however it goes on."""
    results = Results()
    for number, group in enumerate(groups, 1):
        console.rule(f"{group.name}: {group.summary} ({number} of {len(groups)})")
        progress = Progress(console, group.name)
        try:
            with progress.shown():
                progress.keep(asyncio.run(group.measure(progress)))
        except KeyboardInterrupt:
            results.interrupted = True
            console.print(f"{group.name} was interrupted", style="red")
            break
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the others are measured)
            if not isinstance(error, SystemExit):
                console.print_exception(suppress=[asyncio])
            results.failed[group.name] = f"{type(error).__name__}: {error}"
            console.print(
                f"{group.name} failed after {spelled(progress.elapsed_s)}: {error}",
                style="red",
                markup=False,
            )
        else:
            results.measured.append(group.name)
            console.print(f"{group.name} took {spelled(progress.elapsed_s)}")
        finally:
            results.figures |= progress.kept
    return results


def listed(groups: Mapping[str, Group]) -> str:
    """The groups, and under each its figures with what they must reach."""
    lines = []
    for group in groups.values():
        lines.append(f"{group.name:<12}{group.summary}")
        lines += [
            f"    {name:<38}must be {relation} {value:g}"
            for name, (relation, value) in group.targets.items()
        ]
    return "\n".join(lines)


def _parser(groups: Mapping[str, Group]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures warmboot on this machine: a table on the terminal, and JSON. A group "
        "that fails is reported, what it had measured stays, the others are measured all the same, "
        "and the exit code is 1.",
    )
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"{', '.join(groups)}; without one, all of them (up to half an hour)",
    )
    parser.add_argument("--list", action="store_true", help="show groups and figures, and exit")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", default=RESULTS, help="the JSON (%(default)s)"
    )
    return parser


def main(words: Sequence[str] | None = None, groups: Mapping[str, Group] = GROUPS) -> int:
    parser = _parser(groups)
    given = parser.parse_args(words)
    if given.list:
        print(listed(groups))
        return 0
    names = list(dict.fromkeys(given.groups)) or list(groups)
    if unknown := [name for name in names if name not in groups]:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(groups)}")
    chosen = [groups[name] for name in names]
    if os.geteuid() != 0 and (rooted := [group.name for group in chosen if group.needs_root]):
        parser.error(f"run it as root: {', '.join(rooted)} makes network namespaces")
    console = Console(stderr=True, highlight=False)
    results = run(chosen, console)
    if results.figures:
        Console(highlight=False).print(table(results.figures))
    if results.measured or results.failed:  # else what an earlier run has written stays
        store(document(results.figures, results.measured, results.failed), given.output)
        console.print(f"written to {given.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
