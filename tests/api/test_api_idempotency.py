"""Idempotency-Key, against the real store on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.api.conftest import http_to
from tests.support.databases import new_store
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.api.middleware import idempotency
from warmboot.model.container import ContainerSpec
from warmboot.model.errors import HostError
from warmboot.store import Store

BODY = {"image": "busybox"}


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with new_store(tmp_path) as opened:
        yield opened


@pytest.fixture
async def http(fakes: FakeServices, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fakes.services, tokens=frozenset({"a", "b"}), idempotency=store.idempotency)
    async with http_to(app, headers={"Authorization": "Bearer a"}) as client:
        yield client


async def test_the_same_request_is_answered_once_more_not_done_twice(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    first = await http.post("/v1/containers", json=BODY, headers=key("k"))
    again = await http.post("/v1/containers", json=BODY, headers=key("k"))
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(fakes.containers.rows) == 1


async def test_another_body_under_the_same_key_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/v1/containers", json=BODY, headers=key("k"))
    answer = await http.post("/v1/containers", json=BODY | {"name": "x"}, headers=key("k"))
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")


async def test_another_query_under_the_same_key_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/v1/containers", json=BODY | {"name": "c"})
    await http.post("/v1/containers/c/stop?timeout_s=1", headers=key("k"))
    answer = await http.post("/v1/containers/c/stop?timeout_s=2", headers=key("k"))
    assert answer.status_code == 422


async def test_a_key_counts_per_caller_and_path(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    await http.post("/v1/containers", json=BODY, headers=key("k"))
    other = await http.post(
        "/v1/containers", json=BODY, headers=key("k") | {"Authorization": "Bearer b"}
    )
    assert other.status_code == 201
    assert len(fakes.containers.rows) == 2
    elsewhere = await http.post("/v1/runtime-images", json=BODY, headers=key("k"))
    assert elsewhere.json()["code"] == "invalid-request"


async def test_while_the_first_runs_the_second_is_told_to_wait(
    http: httpx.AsyncClient, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    create = fakes.containers.create

    async def slow(spec: ContainerSpec, **asked: bool) -> object:
        entered.set()
        await release.wait()
        return await create(spec, **asked)

    monkeypatch.setattr(fakes.containers, "create", slow)
    first = asyncio.create_task(http.post("/v1/containers", json=BODY, headers=key("k")))
    await asyncio.wait_for(entered.wait(), 60)
    second = await http.post("/v1/containers", json=BODY, headers=key("k"))
    assert (second.status_code, second.json()["code"]) == (409, "request-still-running")
    assert second.headers["retry-after"] == "1"
    release.set()
    created = await first
    third = await http.post("/v1/containers", json=BODY, headers=key("k"))
    assert third.json() == created.json()


async def test_a_refusal_is_kept_like_any_answer(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    await http.post("/v1/containers", json=BODY | {"name": "c"})
    body = BODY | {"name": "c"}
    first = await http.post("/v1/containers", json=body, headers=key("k"))
    assert first.status_code == 409
    await http.delete("/v1/containers/c?force=true")
    again = await http.post("/v1/containers", json=body, headers=key("k"))
    assert (again.status_code, again.content) == (409, first.content)


@pytest.mark.parametrize("error", [HostError("no"), ZeroDivisionError("bug")])
async def test_a_failure_of_ours_is_not_kept(
    http: httpx.AsyncClient, fakes: FakeServices, error: Exception
) -> None:
    fakes.containers.fail_creation = error
    assert (await http.post("/v1/containers", json=BODY, headers=key("k"))).status_code == 500
    fakes.containers.fail_creation = None
    again = await http.post("/v1/containers", json=BODY, headers=key("k"))
    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers


async def test_uploads_take_keys_too(http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/archives", content=b"one", headers=key("k"))
    again = await http.post("/v1/archives", content=b"one", headers=key("k"))
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = await http.post("/v1/archives", content=b"two", headers=key("k"))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


@pytest.mark.parametrize("bad", ["", "x" * 256, "a b", "schlüssel".encode()])
async def test_a_key_without_sense_is_refused(http: httpx.AsyncClient, bad: str) -> None:
    answer = await http.post("/v1/containers", json=BODY, headers={"Idempotency-Key": bad})
    assert answer.status_code == 422


async def test_reads_take_no_notice_of_keys(http: httpx.AsyncClient) -> None:
    before = await http.get("/v1/containers?all=true", headers=key("k"))
    await http.post("/v1/containers", json=BODY)
    after = await http.get("/v1/containers?all=true", headers=key("k"))
    assert before.json() != after.json()


async def test_of_a_worker_the_newest_answers_are_kept_and_of_others_all(
    fakes: FakeServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "KEPT_OF_A_WORKER", 3)
    monkeypatch.setattr(idempotency, "_TRIM_EVERY", 5)
    worker = uuid4()
    app = create_app(
        fakes.services,
        tokens=frozenset({"a"}),
        idempotency=store.idempotency,
        worker_of=lambda token: worker if token == "own" else None,
    )
    route = f"/v1/workers/{worker}/events"
    async with http_to(app) as client:
        for token in ("own", "a"):
            client.headers["Authorization"] = f"Bearer {token}"
            for number in range(12):
                await client.post(route, json={"kind": "step"}, headers=key(f"{number}"))
        client.headers["Authorization"] = "Bearer own"
        again = await client.post(route, json={"kind": "step"}, headers=key("11"))
        assert again.headers["idempotent-replayed"] == "true"
        client.headers["Authorization"] = "Bearer a"
        again = await client.post(route, json={"kind": "step"}, headers=key("0"))
        assert again.headers["idempotent-replayed"] == "true"
    kept = await store.idempotency.trim(f"worker {worker} POST {route}", 0)
    assert 3 <= kept <= 3 + 5
