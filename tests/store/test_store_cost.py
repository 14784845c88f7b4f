"""What the database costs a warm boot, and what listing costs with many rows.

Times are printed (``pytest -rP``), not asserted: they belong to the machine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.store.things import (
    NOON,
    SHAPE,
    a_container,
    a_vm,
    stored_image,
    stored_snapshot,
)

from warmboot.model.container import BootMethod, ContainerState, StageTiming
from warmboot.model.journal.operation import OperationState
from warmboot.store import Claimed, Store
from warmboot.store.address import parse_url
from warmboot.store.tables import containers

ROUNDS = 20
STEPS = ("slot", "disk", "lease", "vm", "identity", "docker", "container")


async def _boot(store: Store, image_id: Any, n: int) -> int:
    """All that a warm boot asks of the store; how many calls those are."""
    container = a_container(runtime_image_id=image_id)
    assert await store.idempotency.claim("POST /v1/containers", f"{n}", "hash") == Claimed()
    async with store.transaction():
        await store.containers.add(container)
        await store.events.append("container.creating", str(container.id))
        operation = await store.operations.begin("boot_container", str(container.id))
    (snapshot,) = await store.snapshots.for_image(image_id, SHAPE)
    vm = a_vm(owner_id=container.id, snapshot_id=snapshot.id)
    await store.snapshots.lease(snapshot.id, vm.id)
    await store.vms.add(replace(vm, handle=None))
    for step in STEPS:
        await store.operations.note_step(operation.id, step, {"n": n})
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
        "POST /v1/containers", f"{n}", status=201, headers={}, body=b"{}"
    )
    return 13 + len(STEPS)


async def test_the_cost_of_a_warm_boot(store: Store) -> None:
    image = await stored_image(store)
    snapshot = await stored_snapshot(store, runtime_image_id=image.id)
    times, calls = [], 0
    for n in range(ROUNDS):
        began = time.perf_counter()
        calls = await _boot(store, image.id, n)
        times.append((time.perf_counter() - began) * 1000)
    print(
        f"warm boot: {calls} calls, median {median(times):.1f} ms,"
        f" first {times[0]:.1f} ms, worst later {max(times[1:]):.1f} ms"
    )
    assert (await store.snapshots.get(snapshot.id)).success_count == ROUNDS
    assert len(await store.containers.list([ContainerState.RUNNING])) == ROUNDS
    assert len(await store.snapshots.leases(snapshot.id)) == ROUNDS
    assert await store.operations.list() == ()


@pytest.fixture
async def crowded(store: Store, migrated_url: str) -> Store:
    """10 000 containers, of which 20 run."""
    rows = []
    for n in range(10_000):
        container = a_container(f"c-{n}", created_at=NOON + timedelta(seconds=n))
        state = ContainerState.RUNNING if n % 500 == 0 else ContainerState.EXITED
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
    engine = create_async_engine(parse_url(migrated_url))
    async with engine.begin() as connection:
        await connection.execute(containers.insert(), rows)
        await connection.execute(text("ANALYZE"))
    await engine.dispose()
    return store


async def test_listing_among_ten_thousand_containers(crowded: Store) -> None:
    async def timed(what: str, call: Any) -> Any:
        began = time.perf_counter()
        found = await call
        print(f"{what}: {len(found)} of 10 000 in {(time.perf_counter() - began) * 1000:.1f} ms")
        return found

    running = await timed("running", crowded.containers.list([ContainerState.RUNNING]))
    assert [container.name for container in running[:2]] == ["c-9500", "c-9000"]
    newest = await timed("newest", crowded.containers.list(limit=50))
    assert [container.name for container in newest[:2]] == ["c-9999", "c-9998"]
    assert len(await timed("all", crowded.containers.list())) == 10_000
    assert (await crowded.containers.find("c-4711")).name == "c-4711"


async def test_queries_of_every_day_use_an_index(crowded: Store, migrated_url: str) -> None:
    engine = create_async_engine(parse_url(migrated_url))
    postgres = engine.dialect.name == "postgresql"
    queries = {
        "SELECT * FROM containers WHERE state IN ('running') ORDER BY created_at DESC, id DESC": (
            "ix_containers_state_created_at_id"
        ),
        "SELECT * FROM containers ORDER BY created_at DESC, id DESC LIMIT 50": (
            "ix_containers_created_at_id"
        ),
        "SELECT * FROM containers WHERE name = 'c-1'": "uq_containers_name",
    }
    async with engine.connect() as connection:
        for query, index in queries.items():
            plan = await connection.execute(
                text(f"EXPLAIN {'' if postgres else 'QUERY PLAN'} {query}")
            )
            assert index in "\n".join(str(row) for row in plan)
    await engine.dispose()
