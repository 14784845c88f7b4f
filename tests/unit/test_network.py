"""What needs no kernel: settings, names, port mappings, the pool."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypedDict

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.eventually import until

from warmboot.host.network import NetworkConfig, Slot, namespaces
from warmboot.host.network import pool as pool_module
from warmboot.host.network.pool import SlotPool
from warmboot.host.network.ports import ports
from warmboot.host.network.rules import nft
from warmboot.model.container import PortMapping
from warmboot.model.errors import InvalidRequest, NetworkError

CONFIG = NetworkConfig(state_dir=Path("/nowhere"))


@given(st.integers(1, CONFIG.capacity))
def test_names_lead_back_to_the_slot(index: int) -> None:
    slot = CONFIG.slot(index)
    assert CONFIG.index_of(slot.veth) == CONFIG.index_of(slot.namespace.name) == index
    assert len(slot.veth) <= 15
    assert Slot.from_dict(json.loads(json.dumps(slot.as_dict()))) == slot


@given(st.integers(1, CONFIG.capacity), st.integers(1, CONFIG.capacity))
def test_slots_share_no_address_and_no_user(one: int, other: int) -> None:
    first, second = CONFIG.slot(one), CONFIG.slot(other)
    net = IPv4Network((first.host_ip, 30), strict=False)
    assert net == IPv4Network((first.ns_ip, 30), strict=False)
    assert net.subnet_of(CONFIG.network)
    assert CONFIG.dns_ip not in {str(address) for address in net}
    shared = {first.host_ip, first.ns_ip, first.uid} & {second.host_ip, second.ns_ip, second.uid}
    assert bool(shared) == (one == other)


def test_guests_are_the_same_in_every_slot() -> None:
    first, second = CONFIG.slot(1), CONFIG.slot(CONFIG.capacity)
    for name in ("tap", "guest_mac", "guest_ip", "gateway_ip"):
        assert getattr(first, name) == getattr(second, name)


@pytest.mark.parametrize(
    "name", ["wb-0", "wb-01", "wb-x", "wb-1-2", "wb2-1", "wb-dns", "wb-123456"]
)
def test_names_of_others_are_not_taken_for_ours(name: str) -> None:
    assert CONFIG.index_of(name) is None


class Changes(TypedDict, total=False):
    prefix: str
    subnet: str
    pool_size: int


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix": ""},
        {"prefix": "wb-1"},
        {"prefix": "Wb"},
        {"prefix": "toolongname"},
        {"subnet": "198.18.0.0/16"},
        {"subnet": "10.0.0.0/30"},
        {"subnet": "10.0.0.1/16"},
        {"subnet": "fd00::/64"},
        {"pool_size": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: Changes) -> None:
    with pytest.raises(InvalidRequest):
        NetworkConfig(state_dir=Path("/nowhere"), **changes)


@pytest.mark.parametrize(
    "mapping",
    [
        PortMapping(0),
        PortMapping(65_536),
        PortMapping(80, -1),
        PortMapping(80, 65_536),
        PortMapping(80, host_ip="localhost"),
        PortMapping(80, host_ip="::1"),
        PortMapping(80, host_ip="127.0.0.1; flush ruleset"),
        PortMapping(80, protocol="sctp"),
    ],
)
def test_mappings_that_cannot_work_are_refused(mapping: PortMapping) -> None:
    with pytest.raises(InvalidRequest):
        ports.check(mapping, "127.0.0.1")


def test_an_empty_address_is_the_default_one() -> None:
    assert ports.check(PortMapping(80, host_ip=""), "10.1.2.3").host_ip == "10.1.2.3"


class Factory:
    """Makes slots when it is allowed to."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = 0
        self.allowed = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def make(self) -> Slot:
        await self.allowed.acquire()
        if self.error is not None:
            self.failed += 1
            raise self.error
        self.made += 1
        return CONFIG.slot(self.made)

    def allow(self, count: int) -> None:
        for _ in range(count):
            self.allowed.release()


async def test_the_pool_keeps_its_size_and_serves_in_order() -> None:
    factory = Factory()
    pool = SlotPool(factory.make, 2)
    pool.start()
    takers = [asyncio.create_task(pool.take()) for _ in range(3)]
    factory.allow(9)
    assert [(await taker).index for taker in takers] == [1, 2, 3]
    assert (await pool.take()).index == 4
    for _ in range(10):  # as often as it takes to make more than it should
        await asyncio.sleep(0)
    assert [slot.index for slot in await pool.drain()] == [5, 6]


async def test_a_failure_reaches_who_waits_and_the_next_request_tries_again() -> None:
    factory = Factory()
    pool = SlotPool(factory.make, 0)
    pool.start()
    factory.error = NetworkError("no")
    factory.allow(1)
    with pytest.raises(NetworkError, match="no"):
        await pool.take()
    factory.error = None
    factory.allow(1)
    assert (await pool.take()).index == 1
    await pool.drain()


async def test_who_waits_when_the_pool_is_drained_is_told() -> None:
    pool = SlotPool(Factory().make, 0)
    pool.start()
    taker = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    assert await pool.drain() == []
    with pytest.raises(NetworkError, match="stopped"):
        await taker


async def test_the_pool_outlives_what_nobody_foresaw() -> None:
    factory = Factory()
    pool = SlotPool(factory.make, 0)
    pool.start()
    for error in (OSError(errno.EMFILE, "Too many open files"), RuntimeError("a bug")):
        factory.error = error
        factory.allow(1)
        with pytest.raises(NetworkError) as caught:
            await asyncio.wait_for(pool.take(), 60)
        assert str(error) in caught.value.details
    factory.error = None
    factory.allow(1)
    assert (await asyncio.wait_for(pool.take(), 60)).index == 1
    await pool.drain()


async def test_a_pool_that_could_not_be_filled_is_filled_later_without_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.01)
    factory = Factory()
    factory.error = NetworkError("no")
    pool = SlotPool(factory.make, 2)
    pool.start()
    factory.allow(3)
    await until(lambda: factory.failed == 3)
    factory.error = None
    factory.allow(2)
    await until(lambda: pool.idle == 2)
    await pool.drain()


async def test_nobody_waits_for_ever_and_all_hear_of_the_last_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "WAIT_TIMEOUT_S", 0.05)
    factory = Factory()
    pool = SlotPool(factory.make, 0)
    pool.start()
    with pytest.raises(NetworkError, match="became ready"):
        await asyncio.wait_for(pool.take(), 60)
    factory.error = NetworkError("no", details="the kernel says so")
    factory.allow(1)
    await until(lambda: factory.failed == 1)
    with pytest.raises(NetworkError) as caught:
        await asyncio.wait_for(pool.take(), 60)
    assert "the kernel says so" in caught.value.details
    await pool.drain()


async def test_who_waits_goes_on_waiting_while_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "WAIT_TIMEOUT_S", 3.0)
    factory = Factory()
    pool = SlotPool(factory.make, 0)
    pool.start()
    takers = [asyncio.create_task(pool.take()) for _ in range(40)]
    for _ in takers:
        await asyncio.sleep(0.08)  # the last one waits longer than for the limit
        factory.allow(1)
    assert [slot.index for slot in await asyncio.gather(*takers)] == list(range(1, 41))
    await pool.drain()


async def test_a_slot_handed_to_one_who_was_cancelled_is_kept() -> None:
    factory = Factory()
    pool = SlotPool(factory.make, 0)
    pool.start()
    taker = asyncio.create_task(pool.take())
    factory.allow(1)
    while not factory.made:  # noqa: ASYNC110 - the very moment is wanted
        await asyncio.sleep(0)
    taker.cancel()
    await asyncio.wait({taker})
    assert taker.cancelled()
    assert (await asyncio.wait_for(pool.take(), 60)).index == 1
    await pool.drain()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
async def test_a_program_that_the_kernel_refuses_to_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(anyio, "open_process", refuse)
    with pytest.raises(NetworkError) as caught:
        await nft.run("nft", "list", "tables")
    assert os.strerror(number) in caught.value.details
    assert caught.value.resolution


async def test_a_thread_that_the_kernel_refuses_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(NetworkError, match="no thread"):
        await namespaces.in_thread(lambda: None)
