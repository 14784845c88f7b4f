"""Logins of an engine: in memory, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import Lab, Manager, front_pids

from warmboot.host import engine_front
from warmboot.model.conventions.engine_front import CONTROL_SOCKET, logins_from
from warmboot.model.conventions.registry_logins import MOST_BYTES, RegistryLogin
from warmboot.model.errors import InvalidRequest, NotFound
from warmboot.model.tenants.engine import Engine
from warmboot.system.call_channel import CallChannel
from warmboot.system.concurrency import end

SECRET = "s3cret-s3cret-s3cret"
LOGINS = [RegistryLogin("registry.example", "me", SECRET)]


def files_with(secret: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


async def logins_in_front(place: Lab, engine: Engine) -> Sequence[RegistryLogin]:
    """Those that the front has which serves now."""
    control = str(place.storage / "run" / CONTROL_SOCKET)
    channel = CallChannel(*await asyncio.open_unix_connection(control))
    running = asyncio.create_task(channel.run())
    try:
        return logins_from(await channel.call("logins", id=str(engine.id)))
    finally:
        channel.close()
        await end(running)


async def test_who_is_started_anew_has_them_from_who_was_there(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def a_new_front_has_them(m: Manager, before: list[int]) -> None:
        async def has() -> bool:
            return front_pids(place.storage) not in ([], before) and (
                list(await logins_in_front(place, engine)) == LOGINS
            )

        await m.until(has)

    async with place.manager() as m:
        engine = await create(m)
        await engines_of(m).log_in("ci", LOGINS)
        before = front_pids(place.storage)
        os.kill(before[0], signal.SIGKILL)
        await a_new_front_has_them(m, before)
    async with place.manager() as m:
        before = front_pids(place.storage)
        os.kill(before[0], signal.SIGKILL)
        await a_new_front_has_them(m, before)
    before = front_pids(place.storage)
    monkeypatch.setattr(engine_front, "_code", lambda: "after an upgrade")
    async with place.manager() as m:
        await a_new_front_has_them(m, before)
        monkeypatch.undo()
        await engines_of(m).delete("ci", force=True)


async def test_logins_are_stored_nowhere_and_go_with_the_engine(
    place: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    async with place.manager() as m:
        engine = await create(m)
        await engines_of(m).log_in("ci", LOGINS)
        assert SECRET not in repr(await engines_of(m).get("ci"))
        assert SECRET not in repr([event.data for event in await m.events_of(engine.id)])
        assert await asyncio.to_thread(files_with, SECRET, place.storage) == []
    async with place.manager() as m:  # it stops writing only when it has ended
        assert await asyncio.to_thread(files_with, SECRET, place.storage) == []
        await engines_of(m).delete("ci", force=True)
        with pytest.raises(NotFound):
            await engines_of(m).log_in(str(engine.id), LOGINS)
    assert SECRET not in "".join(capfd.readouterr())


async def test_an_engine_that_is_being_created_or_stopped_takes_them_too(place: Lab) -> None:
    async with place.manager() as m:
        await create(m)
        (front,) = front_pids(place.storage)
        await engines_of(m).stop("ci", 0)
        await engines_of(m).log_in("ci", LOGINS)
        await engines_of(m).start("ci")
        await engines_of(m).log_in("ci", [])
        assert front_pids(place.storage) == [front]
        with pytest.raises(InvalidRequest, match="logins take"):
            await engines_of(m).log_in("ci", [RegistryLogin("a", "a", "x" * MOST_BYTES)])
        await engines_of(m).delete("ci", force=True)
