"""Pauses between attempts."""

from __future__ import annotations

import asyncio

from warmboot.system.back_off import BackOff


def test_pauses_double_up_to_the_longest() -> None:
    back_off = BackOff(0.5, 3.0)
    assert [back_off.take_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_a_success_it_begins_anew() -> None:
    back_off = BackOff(0.5, 3.0)
    back_off.take_s()
    back_off.take_s()
    back_off.reset()
    assert back_off.next_s == 0.5
    assert back_off.take_s() == 0.5


def test_the_next_pause_can_be_told_before_it_is_taken() -> None:
    back_off = BackOff(1.0, 30.0)
    assert (back_off.next_s, back_off.take_s(), back_off.next_s) == (1.0, 1.0, 2.0)


async def test_without_a_pause_others_still_get_their_turn() -> None:
    turn = asyncio.create_task(asyncio.sleep(0))
    back_off = BackOff(0.0, 0.0)
    await back_off.pause()
    await back_off.pause()
    assert turn.done()
