"""The front of engines' sockets, as the manager has it: started anew, followed, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from pathlib import Path

import httpx
import pytest
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.managers import Lab, eventually, front_pids

from warmboot.host import engine_front
from warmboot.model.conventions.engine_front import PROCESS_FILE
from warmboot.system.procfs import start_ticks


async def test_a_front_that_dies_is_started_anew(place: Lab) -> None:
    async with place.manager() as m:
        engine = await create(m)
        (front,) = front_pids(place.storage)
        os.kill(front, signal.SIGKILL)

        async def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                async with docker(engine) as client:
                    return (await client.get("/_ping")).status_code == 200
            return False

        await m.until(answers)
        (second,) = front_pids(place.storage)
        assert second != front
        noted = place.storage / "run" / PROCESS_FILE
        assert noted.read_text() == f"{second} {start_ticks(second)}\n"
        assert stat.S_IMODE(noted.stat().st_mode) == 0o600


async def test_a_front_of_other_code_goes_on_with_what_it_has_begun(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        engine = await create(m)
        async with docker(engine) as client:
            await client.get("/containers/json")
    (old,) = front_pids(place.storage)
    async with place.manager():  # of the same code
        assert front_pids(place.storage) == [old]
    async with (
        docker(engine) as kept,
        docker(engine) as client,
        client.stream("GET", "/events") as stream,
    ):
        events = stream.aiter_lines()
        assert (await kept.get("/_ping")).status_code == 200
        monkeypatch.setattr(engine_front, "_code", lambda: "after an upgrade")
        async with place.manager() as m:
            await m.until(lambda: asyncio.to_thread(lambda: len(front_pids(place.storage)) == 2))
            async with docker(engine) as other:
                await create_container(other, "seen")
            assert "busybox" in await anext(events), "the stream of the old one"
            assert await m.host.front.unused_s() == {}, "nobody knows of whom it is"
            await stream.aclose()
            await m.until(lambda: asyncio.to_thread(lambda: old not in front_pids(place.storage)))
            assert list(await m.host.front.unused_s()) == [str(engine.id)]
            assert (await kept.get("/_ping")).status_code == 200, "it connects again"
            monkeypatch.undo()
            await engines_of(m).delete("ci", force=True)


async def test_the_front_knows_nothing_of_the_managers_settings(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGER_TOKENS", "s3cret-s3cret-s3cret")
    async with place.manager() as m:
        await create(m)
        (front,) = front_pids(place.storage)
        environment = Path(f"/proc/{front}/environ").read_bytes()
        assert b"MANAGER_" not in environment
        assert b"s3cret" not in environment
        control = place.storage / "run" / "front.sock"
        assert oct(control.stat().st_mode & 0o777) == "0o600"
        await engines_of(m).delete("ci", force=True)


async def test_the_front_ends_when_nobody_needs_it(place: Lab) -> None:
    async with place.manager() as m:
        await create(m)
        await engines_of(m).delete("ci", force=True)
        assert len(front_pids(place.storage)) == 1
    await eventually(lambda: asyncio.to_thread(lambda: front_pids(place.storage) == []))
    assert not (place.storage / "run").exists()
