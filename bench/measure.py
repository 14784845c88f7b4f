"""Interleaved measurements, their medians, and where they go."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.table import Table


class Samples:
    """Measured values by name; a figure is made of medians of one run."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self._values[name].append(value)

    def median(self, name: str) -> float:
        return median(self._values[name])

    def runs(self, name: str) -> int:
        return len(self._values[name])

    def ratio(self, name: str, over: str) -> float:
        return self.median(name) / self.median(over)

    def figures(self, ratios: Mapping[str, tuple[str, str]]) -> dict[str, float]:
        """The ratios of which both parts were measured so far, and those parts."""
        found: dict[str, float] = {}
        for ratio, names in ratios.items():
            if not all(self.runs(name) for name in names):
                continue
            found[ratio] = self.ratio(*names)
            for name in names:
                found[name] = self.median(name)
                found[f"{name}.runs"] = self.runs(name)
        return found


TARGETS: Mapping[str, tuple[str, float]] = {
    "boot.warm_over_floor": ("≤", 1.3),
    "restore.warm_over_floor": ("≤", 1.3),
    "boot.cold_over_warm": ("≥", 40.0),
    "container.cold_over_warm": ("≥", 10.0),
    "boot.four_over_one": ("≤", 2.5),
    "memory.private_over_ram": ("≤", 0.25),
    "memory.manager_mib": ("≤", 150.0),
    "background.boots_over_idle": ("≥", 0.7),
    "worker.pause_over_docker": ("≤", 0.9),
    "worker.resume_over_docker": ("≤", 0.9),
    "worker.pause_256m_over_docker": ("≤", 0.15),
    "worker.resume_256m_over_docker": ("≤", 0.15),
    "worker.pause_1g_over_runc": ("≤", 1.3),
    "worker.resume_1g_over_runc": ("≤", 1.3),
    "worker.rounds_kept": ("≥", 200.0),
    "engine.ready_over_floor": ("≤", 1.3),
    "engine.pooled_over_floor": ("≤", 0.25),
    "engine.request_over_direct": ("≤", 1.5),
    "engine.stream_over_direct": ("≤", 1.15),
    "engine.run_over_guest": ("≤", 1.15),
    "run.options_over_plain": ("≤", 1.15),
    "folder.read_over_tcp": ("≤", 2.0),
    "folder.status_over_local": ("≤", 10.0),
    "fork.standstill_over_copy": ("≤", 1.5),
    "fork.fixed_over_pause": ("≤", 4.0),
    "fork.ready_over_floor": ("≤", 2.5),
    "fork.next_over_floor": ("≤", 1.5),
    "fork.private_over_ram": ("≤", 0.1),
    "park.freed_over_had": ("≥", 0.95),
    "park.wake_over_fork": ("≤", 1.3),
    "depth.image_over_docker_run": ("≤", 1.3),
    "depth.stored_over_own": ("≤", 0.5),
    "storage.ratio": ("≤", 0.45),
    "storage.compressed_boot_over_plain": ("≤", 4.0),
    "storage.compressed_next_over_plain": ("≤", 1.1),
    "storage.uffd_over_file": ("≤", 3.0),
    "scale.thousand_over_one": ("≤", 1.3),
    "scale.restart_thousand_over_ten": ("≤", 10.0),
    "cli.version_cpu_s": ("≤", 0.25),
    "cli.complete_cpu_s": ("≤", 0.25),
    "cli.ps_cpu_s": ("≤", 0.45),
}


class Failed(Exception):
    """What was to be measured did not happen."""


def document(
    figures: Mapping[str, float], measured: Sequence[str], failed: Mapping[str, str]
) -> dict[str, object]:
    """A run as JSON: its figures, the groups they are of, and why the others have none."""
    return {
        "figures": dict(sorted(figures.items())),
        "groups": {"measured": list(measured), "failed": dict(failed)},
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
    }


def store(content: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def table(figures: Mapping[str, float]) -> Table:
    """Figures that must reach something first, then what they are made from."""
    rows = Table(title=f"warmboot on {os.cpu_count()} CPUs, medians of one interleaved run")
    for heading in ("figure", "measured", "must reach", ""):
        rows.add_column(heading, justify="left" if heading in ("figure", "") else "right")
    for name, (relation, target) in TARGETS.items():
        if name not in figures:
            continue
        value = figures[name]
        reached = value <= target if relation == "≤" else value >= target
        rows.add_row(
            name,
            f"{value:.2f}",
            f"{relation} {target:g}",
            "[green]yes[/green]" if reached else "[red]no[/red]",
        )
    rows.add_section()
    for name, value in sorted(figures.items()):
        if name not in TARGETS:
            rows.add_row(name, f"{value:.3f}", "", "")
    return rows
