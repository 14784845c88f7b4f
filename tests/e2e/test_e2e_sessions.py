"""Many sessions in one container of a real VM."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.eventually import until
from tests.support.vms import TINY, Site

from warmboot.client import Client

SESSIONS = 80


@pytest.mark.timeout(600)
async def test_eighty_execs_run_at_once_and_nothing_else_waits_for_them(site: Site) -> None:
    await site.run("busy", TINY, "sh", "-c", "echo up; exec sleep 1000")
    async with Client(site.url) as client:
        seen: list[int] = []
        answered = asyncio.Event()

        async def converse(number: int) -> int | None:
            async with client.containers.exec("busy", ["cat"], stdin=True) as session:
                output = aiter(session)
                await session.write(b"alive\n")
                assert (await anext(output)).data == b"alive\n"
                seen.append(number)
                await answered.wait()
                await session.write_eof()
                assert [chunk async for chunk in output] == []
                return session.exit_code

        talking = [asyncio.create_task(converse(number)) for number in range(SESSIONS)]
        try:

            def all_open() -> bool:
                for task in talking:
                    if task.done():
                        task.result()
                return len(seen) == SESSIONS

            await until(all_open, "all of them are open at the same time", 500)
            async with asyncio.timeout(120):
                assert (await site.cli("logs", "busy")).out == "up\n"
                assert (await client.containers.get("busy")).state == "running"
            answered.set()
            assert await asyncio.gather(*talking) == [0] * SESSIONS
        finally:
            for task in talking:
                task.cancel()
            await asyncio.gather(*talking, return_exceptions=True)
        await site.cli("stop", "-t", "1", "busy")
