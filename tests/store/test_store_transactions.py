"""Who waits for whom, what is undone, and what a cancelled call leaves."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.things import a_container, stored_container

from warmboot.model.container import ContainerState
from warmboot.model.errors import IllegalTransition, NameTaken, NotFound
from warmboot.store import Store


async def test_a_transaction_shows_itself_as_a_whole(store: Store) -> None:
    container = await stored_container(store)
    async with store.transaction():
        await store.containers.set_state(container.id, ContainerState.RUNNING)
        event = await store.events.append("container.running", str(container.id))
        assert (await store.containers.get(container.id)).state is ContainerState.RUNNING

        seen = await _elsewhere(store, container.id)
        assert seen is ContainerState.CREATING
    assert (await store.containers.get(container.id)).state is ContainerState.RUNNING
    assert await store.events.since(0) == (event,)


async def _elsewhere(store: Store, container_id: object) -> ContainerState:
    """What another task sees that knows nothing of this one's transaction."""
    import contextvars

    async def look() -> ContainerState:
        (container,) = await store.containers.list()
        return container.state

    return await asyncio.create_task(look(), context=contextvars.Context())


async def test_an_error_undoes_the_whole_transaction(store: Store) -> None:
    container = await stored_container(store)
    with pytest.raises(ZeroDivisionError):
        async with store.transaction():
            await store.containers.remove(container.id)
            await store.events.append("container.removed", str(container.id))
            raise ZeroDivisionError
    assert await store.containers.list() == (container,)
    assert await store.events.since(0) == ()


async def test_a_transaction_inside_another_joins_it(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction():
            async with store.transaction():
                await store.containers.add(a_container())
            raise ZeroDivisionError
    assert await store.containers.list() == ()


async def test_a_refusal_that_touched_nothing_can_be_caught_inside(store: Store) -> None:
    container = await stored_container(store, "web")
    async with store.transaction():
        with pytest.raises(NameTaken):
            await store.containers.add(a_container("web"))
        with pytest.raises(IllegalTransition):
            await store.containers.set_state(container.id, ContainerState.CREATING)
        await store.events.append("container.refused", "web")
    assert [event.kind for event in await store.events.since(0)] == ["container.refused"]


async def test_a_failure_in_the_database_cannot_be_hidden(store: Store) -> None:
    """PostgreSQL would roll back without a word, SQLite would keep the rest."""
    import uuid

    with pytest.raises(NotFound):
        async with store.transaction():
            await store.events.append("a.b", "x")
            with pytest.raises(NotFound):
                await store.containers.add(a_container(runtime_image_id=uuid.uuid4()))
    assert await store.events.since(0) == ()
    await store.events.append("a.b", "x")


async def test_a_transaction_belongs_to_the_task_that_opened_it(store: Store) -> None:
    async with store.transaction():
        with pytest.raises(RuntimeError, match="another task"):
            await asyncio.create_task(store.containers.list())

    async def later() -> object:
        await over.wait()
        return await store.containers.list()

    over = asyncio.Event()
    async with store.transaction():
        task = asyncio.create_task(later())
    over.set()
    assert await task == ()


async def test_many_writers_and_readers_get_along(store: Store) -> None:
    async def write(writer: int) -> None:
        for n in range(10):
            container = await stored_container(store, f"c-{writer}-{n}")
            async with store.transaction():
                await store.containers.set_state(container.id, ContainerState.RUNNING)
                await store.events.append("container.running", str(container.id))

    async def read() -> None:
        for _ in range(20):
            await store.containers.list(limit=5)

    await asyncio.gather(*(write(writer) for writer in range(10)), *(read() for _ in range(5)))
    assert len(await store.containers.list([ContainerState.RUNNING])) == 100
    assert len(await store.events.since(0, limit=1000)) == 100


async def test_cancelled_calls_leave_nothing_half_done(store: Store) -> None:
    """Cancel in every phase of a transaction: it happened as a whole or not at all."""

    async def work(name: str) -> None:
        async with store.transaction():
            container = await stored_container(store, name)
            await store.containers.set_state(container.id, ContainerState.RUNNING)
            await store.events.append("container.running", name)

    for steps in range(40):
        task = asyncio.create_task(work(f"c-{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.wait_for(work("last"), 60)
    names = sorted(container.name for container in await store.containers.list())
    events = sorted(event.subject_id for event in await store.events.since(0, 1000))
    assert names == events
    assert "last" in names
    assert all(
        container.state is ContainerState.RUNNING for container in await store.containers.list()
    )


async def test_a_cancelled_writer_lets_the_next_one_in(store: Store) -> None:
    inside = asyncio.Event()

    async def hold() -> None:
        async with store.transaction():
            await store.events.append("a.held", "x")
            inside.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await inside.wait()
    waiting = [asyncio.create_task(store.events.append("a.next", f"{n}")) for n in range(3)]
    await asyncio.sleep(0.01)  # they stand in the queue
    waiting[0].cancel()
    holder.cancel()
    await asyncio.wait([holder, *waiting], timeout=60)
    # Which of those that wait comes first is the database's business.
    assert sorted(event.subject_id for event in await store.events.since(0)) == ["1", "2"]


async def test_a_call_that_ends_before_its_statement_commits_nothing_of_the_next(
    store: Store,
) -> None:
    """Such a call's statement would have been committed as it is executed."""
    database = store.containers._database
    with pytest.raises(ZeroDivisionError):
        async with database.write(alone=True):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with store.transaction():
            await store.containers.add(a_container())
            raise ZeroDivisionError
    assert await store.containers.list() == ()
