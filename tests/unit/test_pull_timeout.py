"""What counts as progress of a pull, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from warmboot.docker.pull import Layers, Message, PullTimeout
from warmboot.model.errors import RegistryUnavailable

FOREVER_S = 30.0


def layers(*messages: Message) -> Layers:
    made = Layers()
    for message in messages:
        made.heard(message)
    return made


def retries(layer: str, *lefts_s: int) -> Sequence[Message]:
    return [{"id": layer, "status": f"Retrying in {left_s} seconds"} for left_s in lefts_s]


def downloading(layer: str) -> Message:
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": 7, "total": 9}}


def test_one_pause_is_not_hopeless_however_often_it_is_told() -> None:
    assert layers(*retries("a", 5, 4, 3, 2, 1)).hopeless is None


def test_a_layer_that_brought_nothing_in_two_tries_is_hopeless() -> None:
    assert layers(*retries("a", 5, 4, 3, 2, 1, 10)).hopeless == "a"


def test_a_layer_that_has_brought_something_is_left_to_docker() -> None:
    assert layers(downloading("a"), *retries("a", 5, 1, 10, 1, 15)).hopeless is None


def test_tries_are_counted_for_each_layer() -> None:
    assert layers(*retries("a", 5, 4), *retries("b", 5, 4)).hopeless is None


async def test_silence_is_an_error() -> None:
    with pytest.raises(RegistryUnavailable, match=r"said nothing for 0\.02 s"):
        async with PullTimeout(0.02).waiting("app"):
            await asyncio.sleep(FOREVER_S)


async def test_bytes_that_come_are_progress_though_docker_does_not_tell() -> None:
    counts = iter([0, *(n * 4096 for n in range(1, 9))])
    over = asyncio.Event()

    def received() -> int:
        count = next(counts, None)
        if count is None:
            over.set()
            return 0
        return count

    async with PullTimeout(1.0, received).waiting("app"):
        await over.wait()  # eight looks, of which four fit into the silence that is borne


async def test_what_keeps_a_connection_open_is_no_progress() -> None:
    counts = iter(range(0, 1 << 20, 66))
    with pytest.raises(RegistryUnavailable):
        async with PullTimeout(0.02, lambda: next(counts)).waiting("app"):
            await asyncio.sleep(FOREVER_S)


async def test_unpacking_is_progress_though_docker_does_not_tell() -> None:
    looks, over = 0, asyncio.Event()

    def received() -> int:
        nonlocal looks
        looks += 1
        if looks > 9:
            over.set()
        return 0

    async with PullTimeout(1.0, received).waiting("app") as heard:
        heard({"id": "a", "status": "Extracting"})
        await over.wait()
