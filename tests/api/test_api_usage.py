"""``GET /v1/system/usage``, and the client's side of it."""

from __future__ import annotations

import httpx
import pytest
from tests.support.fake_services import FakeServices

from warmboot.client import Client


async def test_usage_tells_boots_vms_and_disk(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    made = (await http.post("/v1/containers", json={"image": "busybox"})).json()
    await http.get(f"/v1/containers/{made['id']}/wait", params={"until": "running"})
    item = (await http.get("/v1/system/usage", params={"window_s": 60})).json()["item"]
    assert item["window_s"] == 60
    assert set(item["boots"]) == {"warm", "cold"}
    (vm,) = item["vms"]
    assert (vm["owner_id"], vm["kind"]) == (made["id"], "container")
    assert item["storage"]["free_bytes"] < item["storage"]["total_bytes"]


@pytest.mark.parametrize("window_s", ["0", "-1", "nan", "inf", "86401", "soon"])
async def test_a_window_that_is_none_is_refused(http: httpx.AsyncClient, window_s: str) -> None:
    answer = await http.get("/v1/system/usage", params={"window_s": window_s})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid-request"


async def test_the_client_has_it_typed(url: str, fakes: FakeServices) -> None:
    async with Client(url) as client:
        container_id = await client.containers.create(image="busybox")
        await client.containers.wait(container_id, "running", 60)
        usage = await client.system.usage()
    assert usage.window_s == 300
    assert usage.boots["cold"].median_s is None
    assert [vm.owner_id for vm in usage.vms] == [container_id]
    assert usage.raw["vms"][0]["vm_id"] == usage.vms[0].vm_id


async def test_metrics_without_a_manager_behind_them_are_those_of_http(
    http: httpx.AsyncClient,
) -> None:
    await http.get("/healthz")
    text = (await http.get("/metrics")).text
    assert 'warmboot_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in text
