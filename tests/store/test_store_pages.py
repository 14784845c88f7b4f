"""Lists that are read part by part."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.store.things import NOON, stored_container, stored_image, stored_snapshot
from tests.support.databases import new_store

from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.container import Container, ContainerState
from warmboot.model.conventions.pages import Page, PageRequest, Position
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.worker import Worker, WorkerSpec, WorkerState
from warmboot.store import Store

Read = Callable[[PageRequest], Awaitable[Page[Any]]]

COUNT = 13


async def by_parts(read: Read, limit: int) -> list[UUID]:
    """The ids of all, each part after the one before."""
    found: list[UUID] = []
    after: Position | None = None
    while True:
        page = await read(PageRequest(limit, after))
        assert len(page.things) <= limit
        found += [thing.id for thing in page.things]
        if page.last is None:
            return found
        assert len(page.things) == limit
        after = page.last


async def a_worker(store: Store, **changes: Any) -> Worker:
    unique = uuid4()
    spec = WorkerSpec(name=f"w-{unique.hex}", image="busybox")
    state = changes.pop("state", WorkerState.PAUSED)
    worker = Worker(id=unique, spec=spec, state=state, created_at=NOON, **changes)
    await store.workers.add(worker)
    return worker


async def filled(store: Store, random: Random) -> dict[str, tuple[Read, Sequence[UUID]]]:
    """Each list, with what is in it in order. Some things have been made at the same time."""
    times = [NOON + timedelta(microseconds=random.randrange(6)) for _ in range(COUNT)]
    image = await stored_image(store, created_at=NOON - timedelta(days=1))
    worker = await a_worker(store)
    other = await a_worker(store)
    made: dict[str, list[Any]] = {
        "containers": [await stored_container(store, created_at=at) for at in times],
        "snapshots": [
            await stored_snapshot(store, runtime_image_id=image.id, created_at=at) for at in times
        ],
        "images": [image, *[await stored_image(store, created_at=at) for at in times]],
        "checkpoints": [],
    }
    for number, at in enumerate(times):
        for owner in (worker, other):
            one = Checkpoint(
                id=uuid4(),
                worker_id=owner.id,
                name=f"c-{number}",
                state=CheckpointState.READY,
                created_at=at,
                versions=Versions("", "", "", ""),
                image_digest="",
            )
            await store.checkpoints.add(one)
            if owner is worker:
                made["checkpoints"].append(one)
    pages = store.pages
    reads: dict[str, Read] = {
        "containers": pages.containers,
        "snapshots": pages.snapshots,
        "images": pages.images,
        "checkpoints": lambda wanted: pages.checkpoints(worker.id, wanted),
    }
    lists: dict[str, tuple[Read, Sequence[UUID]]] = {}
    for name, things in made.items():
        things.sort(key=lambda one: (one.created_at, one.id.bytes), reverse=name != "images")
        lists[name] = reads[name], [one.id for one in things]
    workers = sorted((worker, other), key=lambda one: one.id.bytes, reverse=True)
    lists["workers"] = pages.workers, [one.id for one in workers]
    return lists


@pytest.mark.parametrize("seed", range(3))
async def test_parts_of_any_size_make_up_the_list(store: Store, seed: int) -> None:
    for read, expected in (await filled(store, Random(seed))).values():
        whole = await read(PageRequest())
        assert [thing.id for thing in whole.things] == expected
        assert whole.last is None
        for limit in range(1, len(expected) + 2):
            assert await by_parts(read, limit) == expected


async def test_what_comes_and_goes_meanwhile_moves_nothing(store: Store) -> None:
    there = [
        await stored_container(store, created_at=NOON + timedelta(seconds=n)) for n in range(9)
    ]
    expected = [one.id for one in reversed(there)]
    found: list[UUID] = []
    after: Position | None = None
    for number in range(3):
        page = await store.pages.containers(PageRequest(3, after))
        found += [one.id for one in page.things]
        after = page.last
        await stored_container(store, created_at=NOON + timedelta(hours=1 + number))
        assert await store.containers.remove(page.things[-1].id)  # the part after begins there
    assert found == expected
    assert after is None


async def test_only_what_may_have_the_name_is_read(store: Store) -> None:
    for name in ("web-1", "db_1", "db%1", "dbx1"):
        await stored_container(store, name)
    for part, found in (("web", {"web-1"}), ("b_", {"db_1"}), ("b%", {"db%1"}), ("/", set())):
        read: set[str] = set()

        def keep(one: Container, read: set[str] = read) -> bool:
            read.add(one.name)
            return True

        await store.pages.containers(PageRequest(name_part=part), None, keep)
        assert read == found


async def test_parts_are_of_what_is_wanted(store: Store) -> None:
    image = await stored_image(store)
    for number in range(12):
        at = NOON + timedelta(seconds=number)
        state = ContainerState.EXITED if number % 3 else ContainerState.RUNNING
        await stored_container(store, f"c-{number:02}", state=state, created_at=at)
        gone = SnapshotState.DELETED if number % 2 else SnapshotState.READY
        await stored_snapshot(store, runtime_image_id=image.id, state=gone, created_at=at)
    await stored_snapshot(store)

    async def names(keep: Callable[[Container], bool]) -> list[str]:
        read: list[str] = []
        after: Position | None = None
        while True:
            page = await store.pages.containers(
                PageRequest(1, after), {ContainerState.EXITED}, keep
            )
            read += [one.name for one in page.things]
            after = page.last
            if after is None:
                return read

    assert await names(lambda one: one.name > "c-06") == ["c-11", "c-10", "c-08", "c-07"]
    assert await names(lambda _: False) == []
    ready = await store.pages.snapshots(PageRequest(), {SnapshotState.READY}, image.id)
    assert len(ready.things) == 6


async def test_rows_that_cannot_be_read_end_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is damaged, its keys too, the rest is read, and the reading ends."""
    monkeypatch.setattr("warmboot.store.repositories.pages.READ_AHEAD", 1)
    async with new_store(tmp_path) as store:
        there = [
            await stored_container(store, created_at=NOON + timedelta(seconds=n)) for n in range(9)
        ]
        with closing(sqlite3.connect(tmp_path / "warmboot.db")) as connection, connection:
            for one in there[3:7]:
                connection.execute(
                    "UPDATE containers SET created_at = created_at || '?' WHERE id = ?",
                    (one.id.hex,),
                )
        expected = [one.id for one in reversed([*there[:3], *there[7:]])]
        for limit in range(1, 10):
            assert await by_parts(store.pages.containers, limit) == expected
