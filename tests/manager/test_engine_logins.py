"""Logins of an engine: known to the front alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import Lab, front_pids

from warmboot.model.conventions.registry_logins import MOST_BYTES, RegistryLogin
from warmboot.model.errors import InvalidRequest, NotFound

SECRET = "s3cret-s3cret-s3cret"
LOGINS = [RegistryLogin("registry.example", "me", SECRET)]


def files_with(secret: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


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
