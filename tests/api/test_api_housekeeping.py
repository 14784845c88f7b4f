"""``/v1/gc`` and the form of a snapshot's memory, over HTTP."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from tests.api.test_api_routes import image_id
from tests.support.fake_services import FakeServices

from warmboot.model.garbage import Garbage, Kind, Why
from warmboot.model.runtime_snapshot import SnapshotState

OLD = uuid4()
FOUND = (
    Garbage(Kind.SNAPSHOT, str(OLD), Why.UNUSED, 400 << 20, Path("/srv/fc/s"), OLD),
    Garbage(Kind.ARCHIVE, "ab" * 32, Why.ORPHAN, 1 << 20, Path("/srv/fc/archives/ab")),
)


async def test_a_dry_run_says_what_and_why_and_nothing_goes(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.garbage.waiting = FOUND
    item = (await http.post("/v1/gc", json={"dry_run": True})).json()["item"]
    assert item["dry_run"] is True
    assert item["freed_bytes"] == 401 << 20
    assert item["removed"][0] == {
        "kind": "snapshot",
        "name": str(OLD),
        "why": "unused",
        "reason": "unused for too long",
        "size_bytes": 400 << 20,
        "path": "/srv/fc/s",
    }
    assert fakes.garbage.waiting == FOUND


@pytest.mark.parametrize("body", [None, {}, {"dry_run": False}])
async def test_it_is_collected_unless_that_is_said(
    http: httpx.AsyncClient, fakes: FakeServices, body: dict[str, bool] | None
) -> None:
    fakes.garbage.waiting = FOUND
    fakes.garbage.kept = FOUND[1:]
    answer = await http.post("/v1/gc", json=body)
    assert answer.status_code == 200
    item = answer.json()["item"]
    assert [one["why"] for one in item["removed"]] == ["unused", "orphan"]
    assert [one["kind"] for one in item["kept"]] == ["archive"]
    assert not fakes.garbage.waiting


@pytest.mark.parametrize("body", [{"dry_run": "yes"}, {"dryrun": True}, {"dry_run": 1}, []])
async def test_what_is_not_understood_collects_nothing(
    http: httpx.AsyncClient, fakes: FakeServices, body: object
) -> None:
    fakes.garbage.waiting = FOUND
    assert (await http.post("/v1/gc", json=body)).status_code == 422
    assert fakes.garbage.waiting == FOUND


async def test_a_snapshot_is_compressed_and_unpacked(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.snapshots.build_s = 3600
    body = {"runtime_image_id": await image_id(http)}
    snapshot_id = (await http.post("/v1/runtime-snapshots", json=body)).json()["id"]
    path = f"/v1/runtime-snapshots/{snapshot_id}"
    early = await http.post(f"{path}/compress")
    assert (early.status_code, early.json()["code"]) == (409, "illegal-transition")
    fakes.snapshots.build_s = 0
    await fakes.snapshots._build(UUID(snapshot_id))
    assert fakes.snapshots.rows[UUID(snapshot_id)].state is SnapshotState.READY
    for verb, compressed in (("compress", True), ("unpack", False)):
        answer = await http.post(f"{path}/{verb}")
        assert answer.status_code == 202
        assert answer.json()["id"] == snapshot_id
        metadata = (await http.get(path)).json()["item"]["metadata"]
        assert metadata["compressed"] is compressed


@pytest.mark.parametrize("verb", ["compress", "unpack"])
async def test_an_unknown_snapshot_is_not_found(http: httpx.AsyncClient, verb: str) -> None:
    assert (await http.post(f"/v1/runtime-snapshots/{uuid4()}/{verb}")).status_code == 404
    assert (await http.post(f"/v1/runtime-snapshots/nonsense/{verb}")).status_code == 422
