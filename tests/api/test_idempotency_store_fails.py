"""A key does not stay "running" because the store failed: it is freed, or its answer is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import Peers, http_to
from tests.support.databases import new_store
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.model.errors import HostError, Unavailable
from warmboot.model.journal.idempotency import Reservation
from warmboot.store import Store

BODY = {"image": "busybox"}
KEY = {"Idempotency-Key": "k"}


class Flaky:
    """The real store; each method that is named in ``failing`` fails that many times."""

    def __init__(self, store: Store) -> None:
        self._kept = store.idempotency
        self.failing: dict[str, int] = {}

    def _perhaps_fail(self, method: str) -> None:
        left = self.failing.get(method, 0)
        if left:
            self.failing[method] = left - 1
            raise Unavailable("the database is too busy")

    async def reserve(self, scope: str, key: str, request_hash: str) -> Reservation:
        outcome = await self._kept.reserve(scope, key, request_hash)
        self._perhaps_fail("reserve")  # after it was stored: the worse case
        return outcome

    async def complete(
        self, scope: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        self._perhaps_fail("complete")
        await self._kept.complete(scope, key, status=status, headers=headers, body=body)

    async def abandon(self, scope: str, key: str) -> None:
        self._perhaps_fail("abandon")
        await self._kept.abandon(scope, key)

    async def trim(self, scope: str, keep: int) -> int:
        return await self._kept.trim(scope, keep)


@pytest.fixture
async def flaky(tmp_path: Path) -> AsyncIterator[Flaky]:
    async with new_store(tmp_path) as opened:
        yield Flaky(opened)


@pytest.fixture
async def http(fakes: FakeServices, flaky: Flaky) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fakes.services, idempotency=flaky, peers=Peers())
    async with http_to(app) as client:
        yield client


@pytest.mark.parametrize("times", [1, 5])
async def test_an_answer_that_cannot_be_stored_is_given_and_given_again(
    http: httpx.AsyncClient, fakes: FakeServices, flaky: Flaky, times: int
) -> None:
    flaky.failing["complete"] = times
    first = await http.post("/v1/containers", json=BODY, headers=KEY)
    assert first.status_code == 201
    for _ in range(3):
        again = await http.post("/v1/containers", json=BODY, headers=KEY)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    other = await http.post("/v1/containers", json=BODY | {"name": "x"}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(fakes.containers.rows) == 1


@pytest.mark.parametrize("body", [BODY, BODY | {"name": "x"}])
async def test_a_key_that_could_not_be_freed_is_free_when_it_comes_again(
    http: httpx.AsyncClient, fakes: FakeServices, flaky: Flaky, body: dict[str, str]
) -> None:
    flaky.failing["abandon"] = 1
    fakes.containers.fail_creation = HostError("no")
    assert (await http.post("/v1/containers", json=BODY, headers=KEY)).status_code == 500
    fakes.containers.fail_creation = None
    assert (await http.post("/v1/containers", json=body, headers=KEY)).status_code == 201


async def test_a_reservation_of_which_nothing_was_heard_does_not_hold_the_key(
    http: httpx.AsyncClient, flaky: Flaky
) -> None:
    flaky.failing["reserve"] = 1
    assert (await http.post("/v1/containers", json=BODY, headers=KEY)).status_code == 503
    assert (await http.post("/v1/containers", json=BODY, headers=KEY)).status_code == 201


async def test_a_request_that_is_cancelled_frees_its_key_though_the_store_fails(
    http: httpx.AsyncClient,
    fakes: FakeServices,
    flaky: Flaky,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered = asyncio.Event()

    async def hang(_: object, **__: bool) -> None:
        entered.set()
        await asyncio.Event().wait()

    flaky.failing["abandon"] = 1
    with monkeypatch.context() as patched:
        patched.setattr(fakes.containers, "create", hang)
        first = asyncio.create_task(http.post("/v1/containers", json=BODY, headers=KEY))
        await asyncio.wait_for(entered.wait(), 60)
        first.cancel()
        await asyncio.wait({first})
    assert (await http.post("/v1/containers", json=BODY, headers=KEY)).status_code == 201


@pytest.mark.parametrize("method", ["reserve", "complete"])
async def test_an_upload_is_told_of_though_its_key_cannot_be_kept(
    http: httpx.AsyncClient, flaky: Flaky, method: str
) -> None:
    flaky.failing[method] = 1
    first = await http.post("/v1/archives", content=b"one", headers=KEY)
    assert first.status_code == 201
    again = await http.post("/v1/archives", content=b"one", headers=KEY)
    assert (again.status_code, again.json()) == (201, first.json())
