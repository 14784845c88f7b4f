"""The screen of ``warmboot top``, with the most important lines first.

    warmboot 0.1.0 on qemu 10.0.2 (tcg)          disk 74.2 GiB free of 252.0 GiB
    boots in 5 min   warm 12  median 0.57s  longest 0.90s
                     cold 1   median 17.2s  longest 17.2s   no snapshot 1
    warm pool        2 of 3 VMs ready (1 to 8)   12 boots from it, 1 without

    CONTAINER …         those that use the processor most
    SNAPSHOT …          those that serve first
    WORKER …            those at which something happens first

Rows that do not fit are counted, not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warmboot.cli.terminal.output import GAP, brief_age, short, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from warmboot.client.results import Container, RuntimeSnapshot
    from warmboot.client.usage import BootSummary, Usage, VmUsage
    from warmboot.client.worker_results import Worker

UNBOUNDED = 10_000
_FIRST_OF_80 = 26
_STATE_STYLES = {
    "running": "green",
    "ready": "green",
    "paused": "cyan",
    "parked": "cyan",
    "failed": "bold red",
    "stalled": "bold red",
    "unhealthy": "bold red",
    "exited": "dim",
}
_SERVING = ("ready", "creating", "unhealthy")
_QUIET = ("paused", "parked", "exited")


@dataclass(frozen=True, slots=True)
class View:
    """One look at the manager. ``load`` is each VM's, 1.0 a whole processor; empty at first."""

    info: Mapping[str, Any]
    usage: Usage
    containers: Sequence[Container]
    snapshots: Sequence[RuntimeSnapshot]
    workers: Sequence[Worker]
    load: Mapping[str, float] = field(default_factory=dict)

    def vm_of(self, container: Container) -> VmUsage | None:
        return next((vm for vm in self.usage.vms if vm.owner_id == container.id), None)

    def as_json(self) -> dict[str, Any]:
        """The containers as the API has them, with the load and the memory of each added."""
        return {
            "info": dict(self.info),
            "usage": dict(self.usage.raw),
            "containers": [self._container(container) for container in self.containers],
            "snapshots": [dict(snapshot.raw) for snapshot in self.snapshots],
            "workers": [dict(worker.raw) for worker in self.workers],
        }

    def _container(self, container: Container) -> dict[str, Any]:
        vm = self.vm_of(container)
        load = None if vm is None else self.load.get(vm.vm_id)
        return {
            **container.raw,
            "cpu_percent": None if load is None else round(100 * load, 1),
            "memory_bytes": None if vm is None else vm.memory_bytes,
            "private_bytes": None if vm is None else vm.private_bytes,
        }


def load_between(before: Usage, after: Usage) -> dict[str, float]:
    """Processors that each VM had in between; one that is new is not named."""
    passed_s = (after.at - before.at).total_seconds()
    known = {vm.vm_id: vm.cpu_s for vm in before.vms}
    if passed_s <= 0:
        return {}
    return {
        vm.vm_id: max(0.0, vm.cpu_s - known[vm.vm_id]) / passed_s
        for vm in after.vms
        if vm.vm_id in known
    }


def shown(
    view: View, rows: int = UNBOUNDED, columns: int = UNBOUNDED, problem: str = ""
) -> RenderableType:
    """The view's lines, ``rows`` at most. ``problem``: why the figures are old."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(line) for line in _head(view)]
    if problem:
        parts.append(Text(problem, "bold red"))
    tables = [table for table in (_containers(view), _snapshots(view), _workers(view)) if table]
    rooms = _rooms([len(table.rows) for table in tables], rows - len(parts) - 2 * len(tables))
    for table, room in zip(tables, rooms, strict=True):
        parts += [Text(""), table.drawn(room, columns)]
    if not tables:
        parts += [Text(""), Text("no containers, no snapshots, no workers", "dim")]
    return Group(*parts)


def _rooms(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for each table: the least that it wants; what is left goes round, one by one."""
    given = [0] * len(wanted)
    while room > 0 and any(have < want for have, want in zip(given, wanted, strict=True)):
        for number, want in enumerate(wanted):
            if room > 0 and given[number] < want:
                given[number] += 1
                room -= 1
    return given


def _head(view: View) -> Iterable[str]:
    info, disk = view.info, view.usage.storage
    on = f"{info['hypervisor']} {info['hypervisor_version']} ({info['accelerator']})"
    yield (
        f"warmboot {info['version']} on {on}   "
        f"disk {size(disk.free_bytes)} free of {size(disk.total_bytes)}"
    )
    window = f"boots in {view.usage.window_s / 60:g} min"
    for number, method in enumerate(("warm", "cold")):
        summary = view.usage.boots[method]
        yield f"{window if number == 0 else '':<{len(window)}}   {method} {_boots(summary)}"
    if pool := info.get("warm_pool"):  # an older manager's has none
        yield f"{'warm pool':<{len(window)}}   {_pool(pool)}"


def _pool(pool: Mapping[str, Any]) -> str:
    if not pool["max"]:
        return "off"
    bounds = f"{pool['ready']} of {pool['size']} VMs ready ({pool['min']} to {pool['max']})"
    boots = f"{pool['hits']} boots from it, {pool['misses']} without"
    short = "   memory is short" if pool["memory_short"] else ""
    return f"{bounds}   {boots}{short}"


def _boots(summary: BootSummary) -> str:
    if not summary.count:
        return "none"
    reasons = ", ".join(
        f"{reason.replace('_', ' ')} {count}"
        for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1])
    )
    timed = f"median {_seconds(summary.median_s)}  longest {_seconds(summary.max_s)}"
    return f"{summary.count:<4} {timed}   {reasons}".rstrip()


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}s" if value < 10 else f"{value:.1f}s"


# -- tables ----------------------------------------------------------------------------------------

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """``columns``: a name; one that begins with ``>`` is a number. The first may be cut."""

    columns: tuple[str, ...]
    rows: list[Row]
    state: int

    def drawn(self, room: int, width: int) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for number, name in enumerate(self.columns):
            justify: Any = "right" if name.startswith(">") else "left"
            drawn.add_column(
                name.removeprefix(">"),
                justify=justify,
                no_wrap=True,
                overflow="ellipsis",
                min_width=8 if number == 0 else len(name.removeprefix(">")),
                max_width=max(8, _FIRST_OF_80 + width - 80) if number == 0 else None,
            )
        hidden = len(self.rows) - room
        last = len(self.rows) if hidden <= 0 else max(0, room - 1)
        for row in self.rows[:last]:
            cells = [Text(cell) for cell in row]
            cells[self.state].stylize(_STATE_STYLES.get(row[self.state], "yellow"))
            drawn.add_row(*cells)
        if hidden > 0:
            drawn.add_row(Text(f"… {len(self.rows) - last} more", "dim"))
        return drawn


def _table(
    columns: str, state: int, things: Iterable[Any], row: Callable[[Any], Row]
) -> _Table | None:
    rows = [row(thing) for thing in things]
    return _Table(tuple(columns.split()), rows, state) if rows else None


def _containers(view: View) -> _Table | None:
    def load(container: Container) -> float:
        vm = view.vm_of(container)
        return 0.0 if vm is None else view.load.get(vm.vm_id, 0.0)

    def row(container: Container) -> Row:
        vm = view.vm_of(container)
        known = vm is not None and vm.vm_id in view.load
        return (
            container.name,
            "stalled" if container.stalled else container.state,
            container.boot_method or "",
            _seconds(container.boot_s),
            f"{100 * load(container):.1f}" if known else "",
            _mib(None if vm is None else vm.memory_bytes),
            _mib(None if vm is None else vm.private_bytes),
            brief_age(container.started_at or container.created_at),
        )

    ordered = sorted(view.containers, key=lambda c: (-load(c), c.name))
    return _table("CONTAINER STATE BOOT >TOOK >CPU% >MEMORY >PRIVATE >AGE", 1, ordered, row)


def _snapshots(view: View) -> _Table | None:
    def row(snapshot: RuntimeSnapshot) -> Row:
        known = snapshot.metadata
        stored = "zstd" if known.get("compressed") else "plain" if "compressed" in known else ""
        return (
            snapshot.name or short(snapshot.id),
            snapshot.state,
            str(snapshot.version or ""),
            f"{snapshot.shape.vcpus}x{snapshot.shape.memory_mib}",
            str(snapshot.success_count),
            str(snapshot.failure_count),
            size(known.get("size_bytes")),
            stored,
            brief_age(snapshot.created_at),
            brief_age(snapshot.last_used_at),
        )

    def order(snapshot: RuntimeSnapshot) -> tuple[int, int]:
        state = snapshot.state
        return (_SERVING.index(state) if state in _SERVING else 9, -snapshot.success_count)

    ordered = sorted(view.snapshots, key=order)
    columns = "SNAPSHOT STATE >VER SHAPE >USES >FAILED >SIZE MEMORY >AGE >USED"
    return _table(columns, 1, ordered, row)


def _workers(view: View) -> _Table | None:
    def row(worker: Worker) -> Row:
        since = worker.paused_at if worker.state == "paused" else worker.resumed_at
        return (worker.name, worker.state, brief_age(since or worker.created_at), worker.image)

    ordered = sorted(view.workers, key=lambda w: (w.state in _QUIET, w.name))
    return _table("WORKER STATE >SINCE IMAGE", 1, ordered, row)


def _mib(value: int | None) -> str:
    return "" if value is None else f"{value / (1 << 20):.0f} MiB"
