"""Engines in the store; what they share with containers is in ``test_store_containers``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from tests.store.things import a_snapshot, an_engine, an_image

from warmboot.model.container import PortMapping
from warmboot.model.errors import IllegalTransition, InUse, NameTaken, NotFound
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, StageTiming
from warmboot.model.tenants.engine import (
    ENGINE_TRANSITIONS,
    EnginePort,
    EngineSpec,
    EngineState,
    ProcessIdentity,
)
from warmboot.store import Store


async def test_an_engine_comes_back_as_it_was(store: Store) -> None:
    image = an_image()
    await store.images.add(image)
    snapshot = a_snapshot(image.id)
    await store.snapshots.add(snapshot)
    engine = an_engine(
        spec=EngineSpec(
            "ci",
            1000,
            Shape(1, 512),
            labels={"a": "b"},
            auto_remove=True,
            time_to_live_s=60.0,
            holder=ProcessIdentity(42, 4711),
        ),
        runtime_image_id=image.id,
        runtime_snapshot_id=snapshot.id,
        snapshot_version=2,
        vm_id="vm-1",
        handed_over=True,
        ports=(EnginePort("c0ffee", PortMapping(8080, 8080), held=True),),
        restarts=("c0ffee",),
        boot_method=BootMethod.WARM,
        stages=(StageTiming("restore", 0.1, 0.2),),
        boot_s=0.3,
        error={"code": "disk-full"},
        started_at=datetime.now(UTC),
    )
    await store.engines.add(engine)
    assert await store.engines.get(engine.id) == engine
    assert await store.engines.find("ci") == engine
    assert await store.engines.list() == (engine,)
    assert engine.expires_at is not None
    with pytest.raises(InUse):
        await store.images.delete(image.id)


async def test_a_name_is_unique_among_engines_only(store: Store) -> None:
    await store.engines.add(an_engine("ci"))
    with pytest.raises(NameTaken, match="there is an engine named 'ci' already"):
        await store.engines.add(an_engine("ci"))


async def test_one_that_is_not_there_is_said_so(store: Store) -> None:
    with pytest.raises(NotFound, match="no engine"):
        await store.engines.get(uuid4())
    with pytest.raises(NotFound, match="image or snapshot"):
        await store.engines.add(an_engine(runtime_image_id=uuid4()))


@pytest.mark.parametrize("old", EngineState)
@pytest.mark.parametrize("new", EngineState)
async def test_only_legal_changes_of_state_are_made(
    store: Store, old: EngineState, new: EngineState
) -> None:
    engine = an_engine(state=old)
    await store.engines.add(engine)
    if ENGINE_TRANSITIONS.allows(old, new):
        moved = await store.engines.set_state(engine.id, new, vm_id="vm-2")
        assert moved == replace(engine, state=new, vm_id="vm-2")
    else:
        with pytest.raises(IllegalTransition):
            await store.engines.set_state(engine.id, new)
