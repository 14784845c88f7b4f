"""The warm pool while VMs of it are ended: what is taken, asked for, or cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from tests.support.absent import ABSENT
from tests.support.eventually import until

from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.vms import warm_pool
from warmboot.manager.vms.pool_size import PoolPolicy
from warmboot.manager.vms.warm_pool import PoolConfig, Prepared, WarmPool
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.system.concurrency import end

MIB = 512
SNAPSHOT = RuntimeSnapshot(
    id=UUID(int=1),
    runtime_image_id=UUID(int=2),
    snapshot_path=Path("/nowhere"),
    state=SnapshotState.READY,
    hypervisor="qemu",
    fc_version="1",
    shape=Shape(1, MIB),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Host:
    """Implements what the pool asks of a host and the store: a VM is ended when it is let go on,
    and its memory is free then."""

    def __init__(self, free_mib: int = 0) -> None:
        self.vms, self.snapshots = self, self
        self.free_mib = free_mib
        self.ending, self.ended = list[str](), list[str]()
        self.go_on = asyncio.Event()

    def free_memory_mib(self) -> int:
        return self.free_mib

    async def destroy(self, vm_id: str, _: None) -> None:
        self.ending.append(vm_id)
        await self.go_on.wait()
        self.free_mib += MIB
        self.ended.append(vm_id)

    async def probe(self) -> Any:
        return SimpleNamespace(host=None, capabilities=SimpleNamespace(lazy_memory=True))

    async def list(self) -> Sequence[RuntimeSnapshot]:
        return ()  # no snapshot is usable any more: none of its VMs is wanted


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def pool(host: Host) -> WarmPool:
    """With the VMs ``a``, ``b`` and ``c``."""
    known: Any = host
    made = WarmPool(known, known, BootAdmission(1), PoolConfig(), ABSENT)
    made._policy = PoolPolicy()
    specs: Any = [SimpleNamespace(id=name) for name in "abc"]
    made._ready = [Prepared(SNAPSHOT, spec, None) for spec in specs]
    return made


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_that_is_taken_while_another_is_ended_is_left_alone(
    host: Host, pool: WarmPool
) -> None:
    filling = asyncio.create_task(pool._fill())
    await settled()
    assert host.ending == ["a"]
    taken = pool.take(SNAPSHOT)
    assert taken is not None
    assert taken.spec.id == "b"
    host.go_on.set()
    await filling
    assert host.ended == ["a", "c"]


async def test_a_vm_whose_end_has_begun_is_ended_though_that_is_cancelled(
    host: Host, pool: WarmPool
) -> None:
    filling = asyncio.create_task(pool._fill())
    await settled()
    filling.cancel()
    await settled()
    host.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await filling
    assert host.ended == ["a"]
    assert pool.status().ready == 2


async def test_who_asks_while_it_gives_way_waits_for_what_becomes_free(
    host: Host, pool: WarmPool
) -> None:
    """And nothing more is ended than both lack."""
    pool._ready = pool._ready[:1]
    first = asyncio.create_task(pool.give_way(MIB))
    second = asyncio.create_task(pool.give_way(MIB))
    await settled()
    assert (first.done(), second.done()) == (False, False), "its memory is not free yet"
    host.go_on.set()
    await asyncio.gather(first, second)
    assert (host.free_mib, host.ended) == (MIB, ["a"])
    assert pool.status().evicted == 1


async def test_who_has_enough_does_not_wait_for_that(host: Host, pool: WarmPool) -> None:
    first = asyncio.create_task(pool.give_way(MIB))
    await settled()
    host.free_mib = MIB // 2
    await asyncio.wait_for(pool.give_way(MIB // 2), 60)
    assert not first.done()
    host.go_on.set()
    await first


async def test_what_is_not_wanted_goes_though_somebody_waits_for_a_container_for_hours(
    host: Host, pool: WarmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "LOOK_AGAIN_S", 0.01)
    slow = pool._admission.boot()
    host.go_on.set()
    keeping = asyncio.create_task(pool.keep_filled())
    await until(lambda: len(host.ended) == 3, "none is wanted any more, and all are ended")
    assert not pool._admission.quiet
    slow.over()
    await end(keeping)
