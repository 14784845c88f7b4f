"""The groups of figures. Each is measured by itself, on a manager or an engine of its own."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bench.measure import TARGETS
from bench.progress import Progress

Measure = Callable[[Progress], Awaitable[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    summary: str
    module: str
    """Has ``measure``; imported when the group begins, so that ``--help`` is quick."""

    kinds: tuple[str, ...]
    """What stands before the dot in the names of its figures."""

    needs_root: bool = True

    async def measure(self, progress: Progress) -> dict[str, float]:
        measure: Measure = importlib.import_module(self.module).measure
        return await measure(progress)

    @property
    def targets(self) -> dict[str, tuple[str, float]]:
        return {
            name: target for name, target in TARGETS.items() if name.split(".")[0] in self.kinds
        }


GROUPS: Mapping[str, Group] = {
    group.name: group
    for group in (
        Group(
            "cli",
            "the command line: processor time of its start",
            "bench.command_line",
            ("cli",),
            needs_root=False,
        ),
        Group(
            "worker",
            "workers: pause and resume, against the engine alone",
            "bench.workers",
            ("worker",),
        ),
        Group(
            "boot",
            "boots and containers, warm, cold and against bare QEMU; memory",
            "bench.boots",
            ("boot", "restore", "container", "memory"),
        ),
        Group(
            "run",
            "`warmboot run` with some of docker's options, against without",
            "bench.options",
            ("run",),
        ),
        Group(
            "engine",
            "engines: ready, requests, streams and containers through the socket",
            "bench.engines",
            ("engine",),
        ),
        Group(
            "folder",
            "folders of the host in an engine: a large file, `git status` in many small ones",
            "bench.folders",
            ("folder",),
        ),
        Group(
            "fork",
            "forks: the source's standstill, until a database answers, memory of eight; parks",
            "bench.forks",
            ("fork", "park"),
        ),
        Group(
            "depth",
            "containers of an image that is prepared, against `docker run`",
            "bench.depths",
            ("depth",),
        ),
        Group(
            "storage",
            "boots from compressed snapshots, against plain ones",
            "bench.storage",
            ("storage",),
        ),
        Group(
            "background",
            "boots beside a rebuild, a compression and a collection",
            "bench.background",
            ("background",),
        ),
        Group(
            "scale",
            "1,000 simulated containers over one: creates, restarts of the manager",
            "bench.scale",
            ("scale",),
            needs_root=False,
        ),
    )
}
