"""Engines frozen in use, and engines that go on from there, on the simulated hypervisor."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.absent import ABSENT
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.impatient import impatient_with_docker
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.manager.tenants.fork_tenant import ForkTenant
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.model.errors import (
    Conflict,
    DiskFull,
    HostError,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    NotSupported,
    VmGone,
)
from warmboot.model.runtime_snapshot import TOKEN_FILE, Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.vm import Disk, DiskFormat, VmKind


async def add_container(engine: Engine, name: str) -> None:
    async with docker(engine) as client:
        assert (await create_container(client, name)).status_code == 201
        assert (await client.post(f"/containers/{name}/start")).status_code == 204


async def running_in(engine: Engine) -> set[str]:
    async with docker(engine) as client:
        found = (await client.get("/containers/json")).json()
    return {name for one in found for name in one["Names"]}


async def freeze(m: Manager, ref: str = "ci", name: str = "seeded") -> RuntimeSnapshot:
    snapshot_id = await engines_of(m).snapshot(ref, name)
    return await m.services.snapshots.get(snapshot_id)


async def test_an_engine_goes_on_from_a_snapshot_and_its_source_does_too(place: Lab) -> None:
    async with place.manager() as m:
        base = await m.snapshot()
        source = await create(m)
        await add_container(source, "db")
        snapshot = await freeze(m)
        assert (snapshot.depth, snapshot.name, snapshot.state) == (
            Depth.ENGINE,
            "seeded",
            SnapshotState.READY,
        )
        assert (snapshot.parent_id, snapshot.version) == (base.id, 0)
        assert snapshot.stored_bytes
        await add_container(source, "later")
        made = await create(m, "copy", snapshot="seeded")
        assert (made.state, made.boot_method) == (EngineState.RUNNING, BootMethod.WARM)
        assert made.runtime_snapshot_id == snapshot.id
        assert await running_in(made) == {"/db"}
        assert await running_in(source) == {"/db", "/later"}
        # Of a copy of a copy there is a moment, too, over the same base.
        await add_container(made, "upper")
        again = await freeze(m, "copy", "upper")
        assert again.parent_id == base.id
        await engines_of(m).delete("copy", force=True)
        await m.services.snapshots.delete(snapshot.id)
        last = await create(m, "last", snapshot="upper")
        assert await running_in(last) == {"/db", "/upper"}


async def test_one_that_died_in_a_broken_off_freeze_keeps_what_it_wrote_last(
    place: Lab, tmp_path: Path
) -> None:
    """It may have come to write to its new overlay, which its next life has to find."""
    async with place.manager() as m:
        await m.snapshot()
        (record,) = await m.store.vms.of_owner((await create(m)).id)
        disk = Disk(tmp_path / "disk.qcow2", format=DiskFormat.QCOW2)
        disk.path.write_text("before")
        (tmp_path / "disk.qcow2.new").write_text("since")
        gone = replace(record, id="vm-gone", spec=replace(record.spec, disks=(disk,)))
        for _ in range(2):
            with pytest.raises(VmGone):
                await m.host.vms.go_on(gone)
            assert disk.path.read_text() == "since"


async def test_a_moment_is_kept_and_so_is_what_it_lies_on(place: Lab) -> None:
    async with place.manager(max_runtime_snapshots=1) as m:
        base = await m.snapshot()
        await create(m)
        snapshot = await freeze(m)
        token = snapshot.snapshot_path / TOKEN_FILE
        assert stat.S_IMODE(token.stat().st_mode) == 0o400
        with pytest.raises(NameTaken):
            await freeze(m)
        with pytest.raises(InUse, match="in use") as refused:
            await m.services.snapshots.delete(base.id)
        assert "seeded" in refused.value.details
        with pytest.raises(NotSupported):
            await m.services.snapshots.rebuild(snapshot.id)
        await engines_of(m).delete("ci", force=True)
        # The limit is for versions, and neither of them may go.
        assert m.services.garbage is not None
        assert snapshot.id not in [
            one.snapshot_id for one in (await m.services.garbage.collect()).removed
        ]
        made = await create(m, "copy", snapshot=str(snapshot.id))
        assert made.state is EngineState.RUNNING
        await m.services.snapshots.delete(snapshot.id)
        assert snapshot.snapshot_path.exists(), "an engine lies on it"
        await engines_of(m).delete("copy", force=True)
        assert not snapshot.snapshot_path.exists()
        await m.services.snapshots.delete(base.id)
        assert not base.snapshot_path.exists()


async def test_what_cannot_be_frozen_or_started_is_refused(place: Lab) -> None:
    async with place.manager() as m:
        base = await m.snapshot()
        with pytest.raises(NotFound):
            await create(m, snapshot="nothing")
        with pytest.raises(InvalidRequest, match="of no engine"):
            await create(m, snapshot=str(base.id))
        await create(m)
        await freeze(m)
        with pytest.raises(InvalidRequest, match="has its shape"):
            await create(m, "copy", snapshot="seeded", shape=Shape(1, 1024))
        await engines_of(m).stop("ci")
        with pytest.raises(Conflict, match="is stopped"):
            await freeze(m, name="other")


async def test_a_damaged_moment_starts_no_engine_and_says_so(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        await create(m)
        snapshot = await freeze(m)
        difference = snapshot.snapshot_path / "snapshot.diff"
        content = bytearray(difference.read_bytes())
        content[-1] ^= 1
        difference.chmod(0o600)
        difference.write_bytes(content)
        made = await create(m, "copy", snapshot="seeded")
        assert made.state is EngineState.FAILED
        assert made.error is not None
        assert made.error["code"] == "snapshot-damaged"
        assert (await m.services.snapshots.get(snapshot.id)).state is SnapshotState.UNHEALTHY
        assert len(vmm_pids(place.storage)) == 1, "the source's"


async def test_a_moment_is_compressed_as_any_snapshot(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        source = await create(m)
        await add_container(source, "db")
        snapshot = await freeze(m)
        await m.services.forms.compress(snapshot.id)

        async def compressed() -> bool:
            now = await m.services.snapshots.get(snapshot.id)
            return bool(now.metadata["compressed"])

        await m.until(compressed, "it is compressed")
        assert {path.name for path in snapshot.snapshot_path.glob("snapshot.diff*")} == {
            "snapshot.diff.zst"
        }
        made = await create(m, "copy", snapshot="seeded")
        assert await running_in(made) == {"/db"}


async def test_forks_go_on_all_of_them_and_nothing_else_is_left(place: Lab) -> None:
    async with place.manager() as m:
        await m.snapshot()
        source = await create(m, labels={"for": "test"})
        await add_container(source, "db")
        await create(m, "ci-1")
        forks = await engines_of(m).fork("ci", 2)
        assert [fork.name for fork in forks] == ["ci-2", "ci-3"]
        assert [fork.state for fork in forks] == [EngineState.RUNNING] * 2
        assert all(fork.spec.labels == {"for": "test"} for fork in forks)
        for fork in (source, *forks):
            assert await running_in(fork) == {"/db"}
        assert [s.depth for s in await m.services.snapshots.list()] == [Depth.RUNTIME]
        (moment,) = [
            s for s in await m.services.snapshots.list(include_deleted=True) if not s.is_version
        ]
        await engines_of(m).delete("ci-2", force=True)
        assert moment.snapshot_path.exists()
        await engines_of(m).delete("ci-3", force=True)
        assert not moment.snapshot_path.exists()


async def test_if_one_fork_does_not_come_up_none_stays(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        await m.snapshot()
        source = await create(m)
        await add_container(source, "db")
        impatient_with_docker(monkeypatch)
        place.set(docker_never_ready="restore")
        with pytest.raises(HostError, match="did not come up"):
            await engines_of(m).fork("ci", 2)
        assert [engine.name for engine in await engines_of(m).list()] == ["ci"]
        assert len(vmm_pids(place.storage)) == 1
        assert len(await m.services.snapshots.list(include_deleted=True)) == 1
        place.set(docker_never_ready="never")
        assert await running_in(source) == {"/db"}


async def test_what_fails_at_any_step_leaves_nothing_and_the_engine_runs_on(place: Lab) -> None:
    failing: list[tuple[str, str]] = []

    async def hook(saga: str, step: str) -> None:
        if (saga, step) in failing:
            raise DiskFull("made to fail")

    async with place.manager(hook) as m:
        base = await m.snapshot()
        source = await create(m)
        await add_container(source, "db")
        fork = ForkTenant[Engine](VmKind.ENGINE, *[ABSENT] * 7)
        for saga in (FreezeTenant(*[ABSENT] * 5).saga, fork.saga):
            for step in saga.steps:
                failing[:] = [(saga.kind, step.name)]
                with pytest.raises(DiskFull):
                    if saga.kind == "fork-engine":
                        await engines_of(m).fork("ci", 1)
                    else:
                        await freeze(m)
                assert await running_in(source) == {"/db"}
                left = await m.services.snapshots.list(include_deleted=True)
                assert [one.id for one in left] == [base.id]
                assert [engine.name for engine in await engines_of(m).list()] == ["ci"]
        failing.clear()
        await freeze(m)
        await check(m.running, ready=[base])
