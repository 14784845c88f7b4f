"""Lists part by part, and filtered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import LOCAL, Peers
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.client import Client, decode
from warmboot.model.errors import InvalidRequest

LISTS = (
    "containers",
    "engines",
    "workers",
    "runtime-images",
    "runtime-snapshots",
    "workers/w-0/checkpoints",
)


@pytest.fixture
async def filled(http: httpx.AsyncClient, fakes: FakeServices, tmp_path: Path) -> None:
    """Seven of each."""
    image = await fakes.images.register(name="default", path=tmp_path)
    for number in range(7):
        body: dict[str, Any] = {"image": "busybox", "name": f"c-{number}", "command": ["sleep"]}
        body["labels"] = {"tier": "web" if number % 2 else "db", f"only-{number}": ""}
        body["labels"]["tls.domains[0]:é"] = f"a={number}"
        assert (await http.post("/v1/containers", json=body)).status_code == 201
        worker = {"image": "busybox", "name": f"w-{number}", "labels": body["labels"]}
        assert (await http.post("/v1/workers", json=worker)).status_code == 201
        engine = {"name": f"e-{number}", "labels": body["labels"]}
        assert (await http.post("/v1/engines", json=engine)).status_code == 201
        await fakes.snapshots.create(image.image.id, None)
        if number:
            folder = tmp_path / str(number)
            folder.mkdir()
            await fakes.images.register(name=f"i-{number}", path=folder)
        await fakes.workers.create_checkpoint("w-0", f"k-{number}")


async def items(http: httpx.AsyncClient, path: str, **params: Any) -> list[Mapping[str, Any]]:
    answer = await http.get(f"/v1/{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: list[Mapping[str, Any]] = answer.json()["items"]
    return found


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.usefixtures("filled")
async def test_parts_of_any_size_make_up_the_list(http: httpx.AsyncClient, path: str) -> None:
    whole = (await http.get(f"/v1/{path}")).json()
    assert len(whole["items"]) == 7
    assert whole.keys() == {"items"}
    for limit in range(1, 9):
        found: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {"limit": limit}
        while True:
            part = (await http.get(f"/v1/{path}", params=params)).json()
            assert len(part["items"]) <= limit
            found += part["items"]
            if "next_cursor" not in part:
                break
            params["cursor"] = part["next_cursor"]
        assert [one["id"] for one in found] == [one["id"] for one in whole["items"]]


async def test_events_are_read_on_from_a_cursor(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    for number in range(5):
        fakes.events.add("container.running", number)
    found: list[int] = []
    params: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        part = (await http.get("/v1/events", params=params)).json()
        found += [one["id"] for one in part["items"]]
        params["cursor"] = part.get("next_cursor")
    assert found == [1, 2, 3, 4, 5]
    assert params["cursor"] is None


async def test_events_of_some_kinds_are_listed_and_followed(url: str, fakes: FakeServices) -> None:
    for kind in ("a.one", "a.two", "a.three", "a.one"):
        fakes.events.add(kind, "x")
    async with Client(url) as client:
        assert [event.id for event in await client.events.list(kinds=["a.one", "a.two"])] == [
            1,
            2,
            4,
        ]
        assert [event.id async for event in client.events.iterate(1, kinds=["a.one"])] == [4]
        async with client.events.follow(1, kinds=["a.three"]) as events:
            assert (await anext(events)).id == 3
            fakes.events.add("a.one", "x")
            fakes.events.add("a.three", "x")
            assert (await anext(events)).id == 6
        with pytest.raises(InvalidRequest, match="kind"):
            await client.events.list(kinds=["a b"])


@pytest.mark.parametrize("path", ["containers", "engines", "workers"])
@pytest.mark.usefixtures("filled")
async def test_a_list_is_of_what_was_asked_for(http: httpx.AsyncClient, path: str) -> None:
    async def names(**params: Any) -> list[str]:
        return sorted(one["name"][2:] for one in await items(http, path, **params))

    assert await names(label="tier=web") == ["1", "3", "5"]
    assert await names(label=["tier=web", "only-3"]) == ["3"]
    assert await names(label="tls.domains[0]:é=a=4") == ["4"]
    assert await names(name="-4") == ["4"]
    assert await names(state="failed") == []
    assert await names(state=["creating", "running"]) == list("0123456")
    assert await names(label="tier=web", limit=2) == ["3", "5"]


@pytest.mark.usefixtures("filled")
async def test_snapshots_images_and_checkpoints_are_filtered(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    [image] = await items(http, "runtime-images", name="i-3")
    assert image["name"] == "i-3"
    assert await items(http, "runtime-snapshots", runtime_image_id=image["id"]) == []
    gone = next(iter(fakes.snapshots.rows))
    assert (await http.delete(f"/v1/runtime-snapshots/{gone}")).status_code == 200
    there = await items(http, "runtime-snapshots", state=["creating", "ready"])
    assert len(there) == 6
    assert str(gone) not in [one["id"] for one in there]
    [deleted] = await items(http, "runtime-snapshots", state="deleted")
    assert deleted["id"] == str(gone)
    assert len(await items(http, "workers/w-0/checkpoints", state="ready")) == 7
    assert await items(http, "workers/w-0/checkpoints", state="damaged") == []


@pytest.mark.parametrize(
    "params", [{"cursor": "7"}, {"limit": 0}, {"limit": 1001}, {"state": "sleeping"}]
)
async def test_what_no_list_has_is_refused(
    http: httpx.AsyncClient, params: Mapping[str, Any]
) -> None:
    assert (await http.get("/v1/containers", params=params)).status_code == 422


async def test_any_cursor_of_its_form_is_a_place_in_the_list(http: httpx.AsyncClient) -> None:
    for cursor in ("0-" + "0" * 32, "9" * 16 + "-" + "f" * 32):
        answer = await http.get("/v1/containers", params={"cursor": cursor, "limit": 1})
        assert answer.status_code == 200


@pytest.mark.usefixtures("filled")
async def test_the_client_reads_each_part_of_a_list_when_it_is_needed(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "PART_ITEMS", 3)
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.url.path)

    for number in range(7):
        fakes.events.add("container.running", number)
    transport = httpx.ASGITransport(create_app(fakes.services, peers=Peers()))
    async with Client(f"{LOCAL}:18080", transport=transport) as client:
        client._http.event_hooks = {"request": [note]}
        lists: dict[str, Callable[[], AsyncIterator[Any]]] = {
            "containers": client.containers.iterate,
            "engines": client.engines.iterate,
            "workers": client.workers.iterate,
            "checkpoints": lambda: client.workers.iterate_checkpoints("w-0"),
            "images": client.images.iterate,
            "snapshots": client.snapshots.iterate,
            "events": client.events.iterate,
        }
        for name, iterate in lists.items():
            asked.clear()
            found: list[Any] = []
            async for one in iterate():
                assert len(asked) == len(found) // 3 + 1, name
                found.append(one.id)
            assert len(found) == len(set(found)) >= 7, name
