"""A row that cannot be read keeps nobody from the others, and what it may own is left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Boolean, Column, Float, Integer, Uuid
from tests.support.managers import Lab, Manager, lab, vmm_pids

from warmboot.api.problems import STATUS
from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.container import ContainerState
from warmboot.model.errors import RowUnreadable
from warmboot.model.journal.operation import OperationState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store.tables import metadata
from warmboot.store.types import Choice, Encoded, UtcDateTime

TYPED = (Encoded, Choice, UtcDateTime, Uuid, Integer, Float, Boolean)

NO_VERSIONS = Versions("", "", "", "")


def unreadable_value(column: Column[Any]) -> str | bytes:
    if isinstance(column.type, Encoded):
        return '{"of a later version": '
    return "nothing of the kind" if isinstance(column.type, TYPED) else b"\xff\x00"


COLUMNS = [
    (table.name, column.name)
    for table in metadata.tables.values()
    for column in table.c
    if isinstance(column.type, TYPED)
    # SQLite itself takes nothing but a number as the number of a row.
    and not (column.primary_key and isinstance(column.type, Integer))
    and not (column.primary_key and table.name == "operation_steps")
]


NAMES = [("vms", "id"), ("images", "path"), ("containers", "vm_id"), ("operations", "subject_id")]
"""Texts that tell what belongs to whom."""


@contextmanager
def database(place: Lab) -> Iterator[sqlite3.Connection]:
    """While no manager runs. As of a damage, foreign keys do not hold."""
    with closing(sqlite3.connect(place.storage / "warmboot.db")) as connection:
        yield connection
        connection.commit()


def damage(place: Lab, table: str, column: str, value: object = None, where: str = "1") -> int:
    """One row cannot be read from now on; how it is told from others."""
    with database(place) as connection:
        (rowid,) = connection.execute(
            f"SELECT rowid FROM {table} WHERE {where} ORDER BY rowid LIMIT 1"
        ).fetchone()
        if value is None:
            value = unreadable_value(metadata.tables[table].c[column])
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))
        return int(rowid)


def row(place: Lab, table: str, rowid: int) -> tuple[object, ...]:
    with database(place) as connection:
        query = f"SELECT * FROM {table} WHERE rowid = ?"
        found: tuple[object, ...] = connection.execute(query, (rowid,)).fetchone()
        return found


async def told(manager: Manager) -> list[str]:
    return [
        f"{check.summary} {check.why} {check.remedy}"
        for check in await manager.services.system.doctor()
        if check.name == "unsettled"
    ]


def files(place: Lab) -> set[str]:
    below = ("vms", "runtime-snapshots", "runtime-images", "boot-logs")
    return {
        str(path.relative_to(place.storage))
        for folder in below
        for path in (place.storage / folder).rglob("*")
    }


async def fill(manager: Manager) -> None:
    """At least one row in each table; containers "one" and "two" run out of a snapshot."""
    store = manager.store
    await manager.snapshot()
    await manager.run("one")
    await manager.run("two")
    now, spec = datetime.now(UTC), WorkerSpec(name="worker", image="busybox")
    worker = Worker(uuid4(), spec, WorkerState.FAILED, now)
    await store.workers.add(worker)
    ready = CheckpointState.READY
    checkpoint = Checkpoint(uuid4(), worker.id, "c", ready, now, NO_VERSIONS, "sha256:0")
    await store.checkpoints.add(checkpoint)
    shape, socket = Shape(1, 256), str(manager.host.front.socket_of("ci"))
    engine = Engine(uuid4(), EngineSpec("ci"), EngineState.FAILED, now, shape, socket)
    await store.engines.add(engine)
    begun = await store.operations.begin("teleport-container", "thing", {"to": "mars"})
    await store.operations.note_step(begun.id, "pack", {"bags": 2})
    await store.idempotency.reserve("scope", "key", "hash")
    await store.idempotency.complete("scope", "key", status=200, headers={}, body=b"")


@pytest.fixture(scope="module")
async def filled() -> AsyncIterator[Lab]:
    async with lab() as place:
        async with place.manager() as manager:
            await fill(manager)
        yield place


@pytest.fixture
def place(filled: Lab) -> Iterator[Lab]:
    """As it was filled; the VMs run on, whatever is done to the database."""
    database_file = filled.storage / "warmboot.db"
    with database(filled) as connection:
        kept = connection.serialize()
    yield filled
    for more in ("-wal", "-shm"):
        database_file.with_name(database_file.name + more).unlink(missing_ok=True)
    database_file.write_bytes(kept)


@pytest.mark.parametrize(("table", "column"), COLUMNS + NAMES, ids=lambda name: name)
async def test_one_row_that_cannot_be_read_is_told_and_costs_nothing(
    place: Lab, table: str, column: str
) -> None:
    rowid = damage(place, table, column)
    was, lying, vmms = row(place, table, rowid), files(place), sorted(vmm_pids(place.storage))
    assert len(vmms) == 2
    async with place.manager() as manager:
        (unreadable,) = await manager.store.unreadable.list()
        assert unreadable.table == table
        assert column in unreadable.problem
        assert any(
            f"the row {unreadable.id} of the table {table}" in line for line in await told(manager)
        )
        assert await manager.output("two") == b""
        await manager.services.garbage.collect()
        for listed in (
            manager.containers.list(all_states=True),
            manager.snapshots.list(),
            manager.services.images.list(),
            manager.store.workers.list(),
            manager.services.events.list(),
            manager.services.system.usage(60),
        ):
            await listed
        assert manager.services.metrics is not None
        await manager.services.metrics.collect()
        with database(place) as connection:
            query = f"SELECT rowid FROM {table} WHERE {unreadable.where}"
            assert connection.execute(query).fetchall() == [(rowid,)]
    assert row(place, table, rowid) == was
    assert files(place) >= lying
    assert sorted(vmm_pids(place.storage)) == vmms


async def test_the_container_of_a_vm_that_cannot_be_read_is_left_until_it_can(place: Lab) -> None:
    vmms = sorted(vmm_pids(place.storage))
    with database(place) as connection:
        (handle,) = connection.execute("SELECT handle FROM vms ORDER BY rowid LIMIT 1").fetchone()
    rowid = damage(place, "vms", "handle", "{}")
    with database(place) as connection:
        connection.execute("UPDATE containers SET state = 'creating', started_at = NULL")
    async with place.manager() as manager:
        one = await manager.containers.get("one")
        assert one.state is ContainerState.CREATING
        assert one.error is not None
        assert one.error["code"] == "row-unreadable"
        with pytest.raises(RowUnreadable, match=r"VmHandle.vm_id: Field required"):
            await manager.containers.delete("one", force=True)
        (snapshot,) = await manager.snapshots.list()
        assert str(one.id) in await manager.store.snapshots.leases(snapshot.id)
    assert set(vmms) <= set(vmm_pids(place.storage))
    with database(place) as connection:
        connection.execute("UPDATE vms SET handle = ? WHERE rowid = ?", (handle, rowid))
        connection.execute("UPDATE containers SET state = 'running', started_at = created_at")
    async with place.manager() as manager:
        assert (await manager.containers.get("one")).error is None
        assert await manager.output("one") == b""
    assert sorted(vmm_pids(place.storage)) == vmms


@pytest.mark.parametrize(("table", "column"), [("containers", "spec"), ("vms", "handle")])
async def test_what_was_half_done_with_it_is_not_undone(
    place: Lab, table: str, column: str
) -> None:
    vmms = sorted(vmm_pids(place.storage))
    async with place.manager() as manager:
        one = await manager.containers.get("one")
        (record,) = await manager.store.vms.of_owner(one.id)
        data = {"vm_id": record.id, "keeps_disk": False, "slot": None}
        begun = await manager.store.operations.begin("boot-vm", str(one.id), data)
    damage(place, table, column)
    async with place.manager() as manager:
        (operation,) = (o for o in await manager.store.operations.list() if o.id == begun.id)
        assert operation.state is OperationState.RUNNING
        assert any(f"the operation boot-vm of {one.id}" in line for line in await told(manager))
    assert sorted(vmm_pids(place.storage)) == vmms


async def test_what_cannot_be_read_is_answered_with_why(place: Lab) -> None:
    damage(place, "containers", "spec", '{"image": 7}', "name = 'one'")
    async with place.manager() as manager:
        assert [c.name for c in await manager.containers.list(all_states=True)] == ["two"]
        with pytest.raises(RowUnreadable, match="ContainerSpec"):
            await manager.containers.get("one")
    assert STATUS[RowUnreadable] == 409
