"""What a manager shows to Prometheus, and what it says of its use."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.support.managers import Lab, Manager

from warmboot.api.app import create_app
from warmboot.manager.protocols import Until
from warmboot.model.errors import DiskFull, NotFound, Unavailable
from warmboot.model.runtime_snapshot import STATE_FILE, SnapshotState
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
_ROW = re.compile(r"^\| `((?:warmboot|process)_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)


@asynccontextmanager
async def http_to(manager: Manager) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(manager.services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


class Shown:
    """One answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.families[name] = family
        self.samples = [s for family in self.families.values() for s in family.samples]

    def value(self, name: str, **labels: object) -> float:
        """The sum over all that have these labels."""
        wanted = {label: str(value) for label, value in labels.items()}
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and wanted.items() <= sample.labels.items()
        )

    def labels_of(self, name: str) -> set[str]:
        samples = self.families[name].samples
        return {label for sample in samples for label in sample.labels} - {"le"}


async def look(manager: Manager) -> Shown:
    async with http_to(manager) as http:
        answer = await http.get("/metrics")
        assert answer.status_code == 200
        return Shown(answer.text)


def documented() -> dict[str, tuple[str, set[str]]]:
    """A metric's type and labels, as the reference has them."""
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in _ROW.findall(REFERENCE.read_text())
    }


# -- the reference ---------------------------------------------------------------------------------


async def test_the_reference_lists_what_is_shown(manager: Manager) -> None:
    await manager.snapshot()
    await manager.run()
    async with http_to(manager) as http:
        await http.get("/healthz")
        shown = Shown((await http.get("/metrics")).text)
    listed = documented()
    assert {name: family.type for name, family in shown.families.items()} == {
        name: kind for name, (kind, _) in listed.items()
    }
    for name, family in shown.families.items():
        if family.samples:
            assert shown.labels_of(name) == listed[name][1], name


async def test_names_follow_the_conventions(manager: Manager) -> None:
    for name, family in (await look(manager)).families.items():
        assert re.fullmatch(r"(warmboot|process)_[a-z][a-z0-9_]*", name), name
        assert (family.type == "counter") == name.endswith("_total"), name
        assert family.documentation, name
        if family.type == "histogram":
            assert name.endswith("_seconds"), name


async def test_no_label_holds_a_users_word(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    container = await manager.run("chosen-by-a-user", labels={"team": "chosen-by-a-user"})
    shown = await look(manager)
    values = {value for sample in shown.samples for value in sample.labels.values()}
    assert str(snapshot.id) in values
    for word in ("chosen-by-a-user", str(container.id), str(container.vm_id), "default"):
        assert word not in values


# -- boots -----------------------------------------------------------------------------------------


async def test_boots_are_counted_by_method_reason_and_outcome(manager: Manager, place: Lab) -> None:
    await manager.run("before-there-is-one")
    await manager.snapshot()
    await manager.run("warm")
    await manager.run("asked-for", boot=BootPolicy.COLD)
    place.set(fail_restore=True)
    await manager.run("fallen-back")
    place.set(fail_restore=False)
    shown = await look(manager)
    boots = "warmboot_boots_total"
    assert shown.value(boots, method="warm", reason="none", outcome="succeeded") == 1
    for reason in ("no_snapshot", "requested", "restore_failed"):
        assert shown.value(boots, method="cold", reason=reason, outcome="succeeded") == 1
    assert shown.value(boots, method="warm", reason="restore_failed", outcome="failed") == 1
    assert shown.value(boots) == 5
    assert shown.value("warmboot_boot_seconds_count", method="warm") == 1
    assert shown.value("warmboot_boot_seconds_count", method="cold") == 3
    assert (
        shown.value(
            "warmboot_failures_total", kind="runtime-snapshot.boot-failed", cause="restore-failed"
        )
        == 1
    )


FAILED_WARM = {"method": "warm", "outcome": "failed"}


async def test_a_full_disk_at_a_warm_boot_is_a_failed_one(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.snapshot()

    async def full(*_: object) -> None:
        raise DiskFull("no room to unpack it")

    with monkeypatch.context() as patch:
        patch.setattr(manager.host.vms, "restore", full)
        await manager.run()
    shown = await look(manager)
    assert shown.value("warmboot_boots_total", **FAILED_WARM, reason="restore_failed") == 1
    kind = "runtime-snapshot.boot-failed"
    assert shown.value("warmboot_failures_total", kind=kind, cause="disk-full") == 1


async def test_a_misfit_found_by_a_boot_is_a_failed_one(place: Lab) -> None:
    async def exchange(saga: str, step: str) -> None:
        if (saga, step) == ("boot-vm", "start") and place.options.get("version") is None:
            place.set(version="2.0")

    async with place.manager(exchange, auto_rebuild=False) as manager:
        await manager.snapshot()
        container = await manager.run()
        assert container.fallback_reason is FallbackReason.VERSION_MISMATCH
        shown = await look(manager)
        assert shown.value("warmboot_boots_total", **FAILED_WARM, reason="version_mismatch") == 1
        await manager.containers.delete(str(container.id), force=True)


async def test_a_snapshot_that_is_deleted_under_a_boot_is_a_failed_one(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.snapshot()

    async def deleted(*_: object) -> None:
        raise NotFound("it was deleted meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(type(manager.store.snapshots), "lease", deleted)
        await manager.run()
    shown = await look(manager)
    assert shown.value("warmboot_boots_total", **FAILED_WARM, reason="no_snapshot") == 1
    assert shown.value("warmboot_snapshot_boots_total", outcome="failed") == 0


async def test_damage_found_by_a_boot_is_told_as_damage(manager: Manager) -> None:
    """The alert for damaged snapshots looks at this counter alone."""
    snapshot = await manager.snapshot()
    (snapshot.snapshot_path / STATE_FILE).unlink()
    container = await manager.run()
    assert container.fallback_reason is FallbackReason.SNAPSHOT_DAMAGED
    shown = await look(manager)
    assert shown.value("warmboot_snapshot_checks_total", outcome="damaged") == 1
    assert shown.value("warmboot_snapshots_turned_unhealthy_total") == 1
    assert shown.value("warmboot_boots_total", **FAILED_WARM, reason="snapshot_damaged") == 1


async def test_a_boot_that_fails_cold_too_is_a_failed_one(manager: Manager, place: Lab) -> None:
    place.set(fail_boot=True)
    failed = await manager.run()
    assert failed.error is not None
    shown = await look(manager)
    assert shown.value("warmboot_boots_total", method="cold", outcome="failed") == 1
    assert shown.value("warmboot_boots_total", outcome="succeeded") == 0
    cause = failed.error["code"]
    assert shown.value("warmboot_failures_total", kind="container.failed", cause=cause) == 1


async def test_stages_add_up_to_the_boot(manager: Manager) -> None:
    await manager.snapshot()
    await manager.run()
    shown = await look(manager)
    whole = shown.value("warmboot_boot_seconds_sum", method="warm")
    stages = ("snapshot", "network", "disk", "restore", "identity", "docker")
    sums = [
        shown.value("warmboot_boot_stage_seconds_sum", method="warm", stage=stage)
        for stage in stages
    ]
    assert 0 < sum(sums) <= whole + 0.001 * len(stages)
    for stage in (*stages, "ports", "create", "start"):
        count = shown.value("warmboot_boot_stage_seconds_count", method="warm", stage=stage)
        assert count == 1, stage


async def test_saved_time_is_against_the_measured_cold_boot(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    assert (await look(manager)).value("warmboot_boot_saved_seconds_total") == 0
    assert snapshot.metadata["cold_boot_s"] > 0
    # As if that took longer than any warm boot, however busy the machine is.
    await manager.store.snapshots.update_metadata(snapshot.id, {"cold_boot_s": 77.0})
    container = await manager.run()
    assert container.boot_s is not None
    expected = 77.0 - container.boot_s
    saved = (await look(manager)).value("warmboot_boot_saved_seconds_total")
    assert saved == pytest.approx(expected, abs=0.001)


# -- what is there ---------------------------------------------------------------------------------


async def test_snapshots_show_state_sizes_ages_and_leases(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    await manager.run("first")
    await manager.run("second")
    shown = await look(manager)
    now = await manager.snapshots.get(snapshot.id)
    label = {"snapshot": snapshot.id}
    assert shown.value("warmboot_snapshots", state="ready") == 1
    assert shown.value("warmboot_snapshots") == 1
    assert shown.value("warmboot_snapshot_info", state="ready", depth="runtime", **label) == 1
    assert shown.value("warmboot_snapshot_leases", **label) == 2
    assert shown.value("warmboot_snapshot_boots_total", outcome="succeeded", **label) == 2
    for name, key in (("stored", "size_bytes"), ("memory", "mem_size_bytes")):
        assert shown.value(f"warmboot_snapshot_{name}_bytes", **label) == now.metadata[key] > 0
    made = shown.value("warmboot_snapshot_created_timestamp_seconds", **label)
    assert made == pytest.approx(now.created_at.timestamp())
    assert now.last_used_at is not None
    used = shown.value("warmboot_snapshot_last_used_timestamp_seconds", **label)
    assert used == pytest.approx(now.last_used_at.timestamp()) and used > made


async def test_a_snapshot_that_was_deleted_is_not_named_any_more(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    await manager.run()
    await manager.snapshots.delete(snapshot.id)
    shown = await look(manager)
    assert shown.value("warmboot_snapshots", state="deleted") == 1
    assert shown.value("warmboot_snapshot_leases", snapshot=snapshot.id) == 0


async def test_builds_are_counted_by_how_they_end(manager: Manager, place: Lab) -> None:
    snapshot = await manager.snapshot()
    successor = await manager.snapshots.rebuild(snapshot.id)
    await manager.snapshot_until(successor, SnapshotState.READY)
    place.set(fail_boot=True)
    failing = await manager.snapshots.create((await manager.image()).id, None)
    await manager.snapshot_until(failing, SnapshotState.UNHEALTHY, SnapshotState.DELETED)
    place.set(fail_boot=False)

    async def counted() -> bool:
        shown = await look(manager)
        return shown.value("warmboot_snapshot_builds_total", outcome="failed") >= 1

    await manager.until(counted, "the failed build is counted")
    shown = await look(manager)
    builds = "warmboot_snapshot_builds_total"
    assert shown.value(builds, kind="build", outcome="succeeded") == 1
    assert shown.value(builds, kind="rebuild", outcome="succeeded") == 1
    assert shown.value("warmboot_snapshot_build_seconds_count", kind="build") == 1


async def test_containers_are_shown_by_state_and_exits_by_outcome(manager: Manager) -> None:
    await manager.run("stays")
    for name, command in (("good", "true"), ("bad", "false")):
        await manager.run(name, command)
        await manager.wait(name, Until.EXITED)

    async def both_exits() -> Shown | None:  # counted a moment after the state is there
        shown = await look(manager)
        return shown if shown.value("warmboot_container_exits_total") == 2 else None

    shown = await manager.until(both_exits, "both exits are counted")
    assert shown.value("warmboot_containers", state="running") == 1
    assert shown.value("warmboot_containers", state="exited") == 2
    assert shown.value("warmboot_vms", kind="container") == 3
    assert shown.value("warmboot_container_exits_total", outcome="succeeded") == 1
    assert shown.value("warmboot_container_exits_total", outcome="failed") == 1


async def test_clients_that_follow_events_are_counted_while_they_do(manager: Manager) -> None:
    following = manager.services.events.follow(0)
    assert isinstance(following, AsyncGenerator)
    await manager.image()
    first = await anext(following)
    assert first.kind == "runtime-image.registered"
    assert (await look(manager)).value("warmboot_event_streams") == 1
    await following.aclose()
    assert (await look(manager)).value("warmboot_event_streams") == 0


async def test_without_a_database_what_was_counted_is_still_shown(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.run()

    async def away() -> None:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(manager.store.counts, "take", away)
    shown = await look(manager)
    assert shown.value("warmboot_look_complete") == 0
    assert shown.value("warmboot_boots_total", outcome="succeeded") == 1
    assert "warmboot_containers" not in shown.families
    monkeypatch.undo()
    assert (await look(manager)).value("warmboot_look_complete") == 1


# -- use -------------------------------------------------------------------------------------------


async def test_use_tells_each_vms_processor_time_and_memory(manager: Manager) -> None:
    container = await manager.run()
    usage = await manager.services.system.usage(60)
    (vm,) = usage.vms
    assert (vm.owner_id, vm.usage.vm_id, vm.kind) == (container.id, container.vm_id, "container")
    assert vm.usage.cpu_s > 0
    assert vm.usage.memory_bytes >= vm.usage.private_bytes > 1 << 20
    assert usage.storage.total_bytes > usage.storage.free_bytes > 0


async def test_use_tells_the_boots_of_the_last_minutes_after_a_restart_too(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.snapshot()
        warm = await manager.run("warm")
        await manager.run("cold", boot=BootPolicy.COLD)
    async with place.manager() as manager:
        usage = await manager.services.system.usage(60)
        assert usage.boots[BootMethod.WARM].count == 1
        assert usage.boots[BootMethod.WARM].median_s == pytest.approx(warm.boot_s, abs=0.001)
        assert usage.boots[BootMethod.COLD].reasons == {FallbackReason.REQUESTED: 1}
        assert (await manager.services.system.usage(0.001)).boots[BootMethod.WARM].count == 0
        for name in ("warm", "cold"):
            await manager.containers.delete(name, force=True)
