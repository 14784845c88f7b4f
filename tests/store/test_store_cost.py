"""What the database does for a warm boot, and for what is asked of it every day."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.store.things import (
    NOON,
    SHAPE,
    a_container,
    a_vm,
    stored_image,
    stored_snapshot,
)

from warmboot.model.container import ContainerState
from warmboot.model.journal.operation import OperationState
from warmboot.model.tenants.boot import BootMethod, StageTiming
from warmboot.store import Reserved, Store
from warmboot.store.address import parse_url
from warmboot.store.tables import containers, vms
from warmboot.store.types import JSON_AS_TEXT

STEPS = ("slot", "disk", "lease", "vm", "identity", "docker", "container")
TRANSACTIONS = 2
"""Of several calls; on PostgreSQL they take turns."""
MANY = 2_000


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile, each statement with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def _boot(store: Store, image_id: UUID) -> int:
    """All that a warm boot asks of the store; how many calls those are."""
    container = a_container(runtime_image_id=image_id)
    assert await store.idempotency.reserve("POST /v1/containers", "key", "hash") == Reserved()
    async with store.transaction():
        await store.containers.add(container)
        await store.events.append("container.creating", str(container.id))
        operation = await store.operations.begin("boot_container", str(container.id))
    (snapshot,) = await store.snapshots.for_image(image_id, SHAPE)
    vm = a_vm(owner_id=container.id, snapshot_id=snapshot.id)
    await store.snapshots.lease(snapshot.id, vm.id)
    await store.vms.add(replace(vm, handle=None))
    for step in STEPS:
        await store.operations.note_step(operation.id, step, {})
    await store.vms.update(vm.id, handle=vm.handle)
    await store.snapshots.record_success(snapshot.id, datetime.now(UTC))
    async with store.transaction():
        await store.containers.set_state(
            container.id,
            ContainerState.RUNNING,
            boot_method=BootMethod.WARM,
            runtime_snapshot_id=snapshot.id,
            vm_id=vm.id,
            stages=tuple(StageTiming(step, 0.1, 0.2) for step in STEPS),
        )
        await store.events.append("container.running", str(container.id))
        await store.operations.set_state(operation.id, OperationState.DONE)
    await store.idempotency.complete(
        "POST /v1/containers", "key", status=201, headers={}, body=b"{}"
    )
    return 13 + len(STEPS)


async def test_each_call_of_a_warm_boot_is_one_statement(store: Store) -> None:
    """Each is a trip to the database while somebody waits for a container."""
    image = await stored_image(store)
    await stored_snapshot(store, runtime_image_id=image.id)
    with statements() as seen:
        calls = await _boot(store, image.id)
    turns = [statement for statement, _ in seen if "pg_advisory_xact_lock" in statement]
    assert len(seen) - len(turns) == calls
    assert len(turns) <= TRANSACTIONS


@pytest.fixture
async def crowded(store: Store, migrated_url: str) -> Store:
    """Many containers, one in a hundred of which runs, and the VM of each."""
    rows, owned, vm = [], [], a_vm()
    of_each = {name: getattr(vm, name) for name in ("kind", "spec", "token", "created_at")}
    for n in range(MANY):
        container = a_container(f"c-{n}", created_at=NOON + timedelta(seconds=n))
        state = ContainerState.RUNNING if n % 100 == 0 else ContainerState.EXITED
        rows.append(
            {
                "id": container.id,
                "name": container.name,
                "state": state,
                "spec": container.spec,
                "vcpus": SHAPE.vcpus,
                "memory_mib": SHAPE.memory_mib,
                "fallback_details": "",
                "stages": (),
                "ports": (),
                "oom_killed": False,
                "created_at": container.created_at,
                "updated_at": NOON,
            }
        )
        owned.append({"id": f"vm-{n}", "owner_id": container.id, **of_each})
    engine = create_async_engine(parse_url(migrated_url), **JSON_AS_TEXT)
    async with engine.begin() as connection:
        await connection.execute(containers.insert(), rows)
        await connection.execute(vms.insert(), owned)
        await connection.execute(text("ANALYZE"))
    await engine.dispose()
    return store


@pytest.fixture
async def plan_of(migrated_url: str) -> AsyncIterator[Callable[[str, Any], Awaitable[str]]]:
    """How the database would go about a statement, in its own words."""
    engine = create_async_engine(parse_url(migrated_url))
    explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"

    async def ask(statement: str, parameters: Any) -> str:
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            return "\n".join(str(row) for row in rows)

    yield ask
    await engine.dispose()


async def test_among_many_containers_an_index_leads_to_the_few_wanted(
    crowded: Store, plan_of: Callable[[str, Any], Awaitable[str]]
) -> None:
    async def asked(call: Awaitable[Any], index: str) -> Any:
        with statements() as seen:
            found = await call
        assert seen
        for statement, parameters in seen:
            assert index in await plan_of(statement, parameters), statement
        return found

    running = await asked(
        crowded.containers.list([ContainerState.RUNNING]), "ix_containers_state_created_at_id"
    )
    assert [container.name for container in running[:2]] == ["c-1900", "c-1800"]
    newest = await asked(crowded.containers.list(limit=50), "ix_containers_created_at_id")
    assert [container.name for container in newest[:2]] == ["c-1999", "c-1998"]
    assert (await asked(crowded.containers.find("c-471"), "uq_containers_name")).name == "c-471"
    (vm,) = await asked(crowded.vms.of_owner(newest[0].id), "ix_vms_owner_id")
    assert vm.id == "vm-1999"
