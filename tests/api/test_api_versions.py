"""Versions of a snapshot over the API: registering, weights, pins, what fits, statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from tests.support.fake_services import FakeServices

from warmboot.model.runtime_snapshot import BootStats, SnapshotState
from warmboot.model.tenants.boot import BootAttempt, FallbackReason

IMAGES, SNAPSHOTS = "/v1/runtime-images", "/v1/runtime-snapshots"


@pytest.fixture
async def fakes() -> FakeServices:
    """Registering an image begins its snapshot here."""
    made = FakeServices()
    made.images.snapshots = made.snapshots
    made.snapshots.build_s = 3600  # tests say themselves what becomes of it
    return made


async def register(http: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    answer = await http.post(IMAGES, json={"name": "trixie", "path": "/tmp", **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def snapshot(http: httpx.AsyncClient) -> str:
    return str((await register(http))["snapshot_id"])


async def show(http: httpx.AsyncClient, snapshot_id: str) -> dict[str, Any]:
    return dict((await http.get(f"{SNAPSHOTS}/{snapshot_id}")).json()["item"])


async def test_registering_tells_which_snapshot_it_began(http: httpx.AsyncClient) -> None:
    first = await register(http)
    assert (first["snapshot_begun"], first["note"]) == (True, "")
    again = await register(http)
    assert again == {**first, "snapshot_begun": False}
    assert (await show(http, first["snapshot_id"]))["version"] == 1


async def test_registering_without_a_snapshot(http: httpx.AsyncClient) -> None:
    registered = await register(http, build_snapshot=False)
    assert (registered["snapshot_id"], registered["snapshot_begun"]) == (None, False)
    assert registered["note"]
    assert (await http.get(SNAPSHOTS)).json() == {"items": []}


@pytest.mark.parametrize("value", ["yes", 1, "false"])
async def test_build_snapshot_is_true_or_false(http: httpx.AsyncClient, value: object) -> None:
    body = {"name": "trixie", "path": "/tmp", "build_snapshot": value}
    assert (await http.post(IMAGES, json=body)).status_code == 422


async def test_weight_and_pin_are_set_one_by_one_or_both(http: httpx.AsyncClient) -> None:
    snapshot_id = await snapshot(http)
    before = await show(http, snapshot_id)
    assert (before["weight"], before["pinned"]) == (100, False)
    for body in ({"weight": 0}, {"pinned": True}, {"weight": 2.5, "pinned": False}):
        answer = await http.patch(f"{SNAPSHOTS}/{snapshot_id}", json=body)
        assert answer.status_code == 200
        assert body.items() <= answer.json()["item"].items()
        assert body.items() <= (await show(http, snapshot_id)).items()


@pytest.mark.parametrize(
    "body",
    [
        '{"weight": -1}',
        '{"weight": "many"}',
        '{"weight": "5"}',
        '{"weight": true}',
        '{"weight": NaN}',
        '{"weight": Infinity}',
        '{"weight": 1e300}',
        '{"weight": [1]}',
        '{"pinned": "yes"}',
        '{"pinned": 1}',
        '{"weight": null}',
        "{}",
        '{"state": "ready"}',
        "[]",
    ],
)
async def test_what_is_no_weight_and_no_pin_is_refused(http: httpx.AsyncClient, body: str) -> None:
    snapshot_id = await snapshot(http)
    answer = await http.patch(
        f"{SNAPSHOTS}/{snapshot_id}",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["resolution"]
    kept = await show(http, snapshot_id)
    assert (kept["weight"], kept["pinned"]) == (100, False)


async def test_a_bad_weight_is_named(http: httpx.AsyncClient) -> None:
    snapshot_id = await snapshot(http)
    answer = await http.patch(f"{SNAPSHOTS}/{snapshot_id}", json={"weight": "many"})
    fields = {error["field"] for error in answer.json()["errors"]}
    assert any("weight" in field for field in fields)


async def test_a_deleted_one_is_a_conflict_and_an_unknown_one_not_found(
    http: httpx.AsyncClient,
) -> None:
    snapshot_id = await snapshot(http)
    await http.delete(f"{SNAPSHOTS}/{snapshot_id}")
    for body in ({"pinned": True}, {"weight": 1}):
        deleted = await http.patch(f"{SNAPSHOTS}/{snapshot_id}", json=body)
        assert (deleted.status_code, deleted.json()["code"]) == (409, "conflict")
        unknown = await http.patch(f"{SNAPSHOTS}/{uuid4()}", json=body)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not-found")


async def test_what_cannot_be_used_here_is_told_apart_from_what_is_broken(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    snapshot_id = await snapshot(http)
    row = fakes.snapshots.rows[UUID(snapshot_id)]
    needed = {
        "hypervisor": "simulated",
        "hypervisor_version": "0.9",
        "accelerator": "none",
        "machine": "simulated",
        "cpu_model": "any",
    }
    stale = replace(row, state=SnapshotState.READY, metadata={"requires": needed})
    fakes.snapshots.rows[row.id] = stale
    item = await show(http, snapshot_id)
    assert (item["state"], item["usable"]) == ("ready", False)
    assert item["unmet_requirement"] == "hypervisor_version"
    assert "needs 0.9, this host has 1.0" in item["unusable_because"]
    fakes.snapshots.rows[row.id] = replace(
        row, state=SnapshotState.UNHEALTHY, error={"brief": "it broke"}
    )
    item = await show(http, snapshot_id)
    assert (item["state"], item["usable"]) == ("unhealthy", False)
    assert (item["unmet_requirement"], item["unusable_because"]) == (None, "it broke")
    (listed,) = (await http.get(SNAPSHOTS)).json()["items"]
    assert listed == item


async def test_statistics_of_a_version(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    snapshot_id = await snapshot(http)
    empty = {"count": 0, "median": None, "mean": None}
    stats = (await show(http, snapshot_id))["stats"]
    assert stats == {"boots": 0, "successes": 0, "failures": 0, "boot_s": empty}
    row = fakes.snapshots.rows[UUID(snapshot_id)]
    fakes.snapshots.rows[row.id] = replace(
        row, success_count=3, failure_count=1, boots=BootStats(3, 3.0, (0.5, 0.7, 1.8))
    )
    stats = (await show(http, snapshot_id))["stats"]
    assert stats == {
        "boots": 4,
        "successes": 3,
        "failures": 1,
        "boot_s": {"count": 3, "median": 0.7, "mean": 1.0},
    }


async def test_a_container_tells_which_version_served_and_which_failed(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    made = (await http.post("/v1/containers", json={"image": "busybox"})).json()["id"]
    failed = BootAttempt(uuid4(), 2, FallbackReason.RESTORE_FAILED, "the state is torn")
    row = fakes.containers.rows[UUID(made)]
    fakes.containers.rows[row.id] = replace(row, snapshot_version=1, boot_attempts=(failed,))
    item = (await http.get(f"/v1/containers/{made}")).json()["item"]
    assert item["snapshot_version"] == 1
    assert item["boot_attempts"] == [
        {
            "snapshot_id": str(failed.snapshot_id),
            "version": 2,
            "reason": "restore_failed",
            "message": "Restore failed",
            "details": "the state is torn",
        }
    ]
