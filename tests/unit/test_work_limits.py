"""What takes longer than its request allows is ended, though it makes progress."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from warmboot.criu import in_progress
from warmboot.criu.in_progress import Limits, Work, unless_it_hangs
from warmboot.criu.runtime_work import runtimes_at_work
from warmboot.model.errors import CheckpointError, CheckpointTimeout, EngineUnavailable
from warmboot.system.programs import run_program

GENEROUS_S = 60.0
GROWS = 'while echo more >> "$0" && sleep 0.01; do :; done; exit 1'
"""Ends when what it has started is killed, as runc does with CRIU."""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(None, tmp_path / "docker.sock", secrets.token_hex(8), folders=(tmp_path,))


async def dump(work: Work) -> None:
    file = work.folders[0] / "pages.img"
    words = ("-c", GROWS, file, "checkpoint", work.container_id)
    await run_program("sh", *words, failure=CheckpointError)


async def test_what_makes_progress_is_ended_when_its_time_is_over(work: Work) -> None:
    with pytest.raises(CheckpointTimeout) as caught:
        await unless_it_hangs(work, dump(work), Limits(GENEROUS_S, timeout_s=0.2))
    assert "not done within the 0.2 s that the request allows, so it was ended" in str(caught.value)
    assert "--timeout" in caught.value.resolution
    assert runtimes_at_work(work.container_id) == []


async def test_what_begins_only_when_its_time_is_over_is_ended_too(work: Work) -> None:
    async def late() -> None:
        await asyncio.sleep(0.3)  # the engine is slow
        await dump(work)

    with pytest.raises(CheckpointTimeout):
        await unless_it_hangs(work, late(), Limits(GENEROUS_S, timeout_s=0.1))
    assert runtimes_at_work(work.container_id) == []


async def test_what_is_done_in_time_has_no_limit_left_to_break(work: Work) -> None:
    await unless_it_hangs(work, asyncio.sleep(0), Limits(GENEROUS_S, timeout_s=GENEROUS_S))


async def test_an_engine_that_does_not_end_it_is_told_of_with_the_limit(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_progress, "ANSWER_AFTER_END_S", 0.1)
    never = asyncio.Event()

    async def hangs() -> None:
        await never.wait()

    with pytest.raises(EngineUnavailable, match="does not answer") as caught:
        await unless_it_hangs(work, hangs(), Limits(GENEROUS_S, timeout_s=0.1))
    assert "within the 0.1 s" in caught.value.details


async def test_without_progress_the_shorter_limit_is_told(work: Work) -> None:
    async def still() -> None:
        words = ("-c", "sleep 1000; exit 1", "sh", "checkpoint", work.container_id)
        await run_program("sh", *words, failure=CheckpointError)

    with pytest.raises(CheckpointError, match=r"nothing of it had moved for 0\.4 s") as caught:
        await unless_it_hangs(work, still(), Limits(0.4, timeout_s=GENEROUS_S))
    assert not isinstance(caught.value, CheckpointTimeout)


async def test_a_step_is_not_begun_when_no_time_is_left() -> None:
    with pytest.raises(CheckpointTimeout, match="too late"):
        async with Limits(timeout_s=0.0).within("too late"):
            pytest.fail("it was begun")


async def test_a_step_is_broken_off_in_time() -> None:
    with pytest.raises(CheckpointTimeout, match="too late"):
        async with Limits(timeout_s=0.05).within("too late"):
            await asyncio.Event().wait()


async def test_without_a_timeout_a_step_takes_its_time() -> None:
    async with Limits().within("too late"):
        await asyncio.sleep(0)
