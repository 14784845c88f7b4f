"""Many sessions in one container: all run, or are refused at once; nothing else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from tests.support.managers import Manager

from warmboot.host.guest import guest_link
from warmboot.manager.protocols import Session, Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import CommandNotFound, TooManySessions
from warmboot.model.sessions import ExecSpec

ONE_SECOND_FOR_EACH = 80.0


async def begin(manager: Manager, count: int) -> list[Session]:
    """Execs that last until they are closed."""
    spec = ExecSpec(("cat",), stdin=True)
    async with asyncio.timeout(ONE_SECOND_FOR_EACH):
        return await asyncio.gather(*(manager.containers.exec("web", spec) for _ in range(count)))


async def all_answer(sessions: list[Session]) -> None:
    """Each of them is a process that runs."""
    for session in sessions:
        await session.write(b"alive\n")
    async with asyncio.timeout(ONE_SECOND_FOR_EACH):
        for session in sessions:
            chunk = await anext(aiter(session))
            assert chunk.data == b"alive\n"


async def close(sessions: list[Session]) -> None:
    await asyncio.gather(*(session.close() for session in sessions))


@pytest.fixture
async def few(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Session]]:
    """There is room for three sessions, and all of it is taken."""
    monkeypatch.setattr(guest_link, "MOST_SESSIONS", 3)
    monkeypatch.setattr(guest_link, "MOST_READERS", 1)
    await manager.run("web", "sh", "-c", "echo hello; sleep 1000")
    sessions = await begin(manager, 3)
    yield sessions
    await close(sessions)


async def test_eighty_execs_run_and_the_container_answers_and_stops(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo hello; sleep 1000")
    sessions = await begin(manager, 80)
    await all_answer(sessions)
    async with asyncio.timeout(60):
        assert await manager.output("web") == b"hello\n"
        attached = await manager.containers.attach("web", logs=True)
        following = manager.containers.logs("web", follow=True)
        assert (await anext(aiter(following))).data == b"hello\n"
        await manager.containers.stop("web", 1)
    assert (await manager.wait("web", Until.EXITED)).state is ContainerState.EXITED
    await close([*sessions, attached])


async def test_one_too_many_is_refused_at_once(manager: Manager, few: list[Session]) -> None:
    for begin_one in (
        lambda: manager.containers.exec("web", ExecSpec(("cat",))),
        lambda: manager.containers.attach("web"),
        lambda: manager.output("web", follow=True),
    ):
        with pytest.raises(TooManySessions, match="3 sessions") as refused:
            await begin_one()
        assert "close some" in refused.value.resolution
    assert await manager.output("web") == b"hello\n"
    await all_answer(few)


async def test_who_ends_makes_room(manager: Manager, few: list[Session]) -> None:
    await few.pop().close()
    few += await begin(manager, 1)
    await all_answer(few)


async def test_one_that_could_not_begin_takes_no_room(manager: Manager, few: list[Session]) -> None:
    await few.pop().close()
    for _ in range(3):
        session = await manager.containers.exec("web", ExecSpec(("missing",)))
        with pytest.raises(CommandNotFound):
            [chunk async for chunk in session]
        await session.close()
    beginning = asyncio.ensure_future(begin(manager, 1))
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.gather(beginning, return_exceptions=True)
    few += await begin(manager, 1)


async def test_a_detached_exec_is_no_session(manager: Manager, few: list[Session]) -> None:
    session = await manager.containers.exec("web", ExecSpec(("sleep", "1000"), detach=True))
    await session.close()


async def test_readers_of_logs_that_do_not_read_are_bounded_too(
    manager: Manager, few: list[Session]
) -> None:
    first = manager.containers.logs("web")
    assert isinstance(first, AsyncGenerator)
    await anext(aiter(first))
    with pytest.raises(TooManySessions, match="1 reader"):
        await manager.output("web")
    await first.aclose()
    assert await manager.output("web") == b"hello\n"
