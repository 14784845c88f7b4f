"""Every path: what it takes, what it answers."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from tests.support.eventually import eventually
from tests.support.fake_services import FakeServices


async def create(http: httpx.AsyncClient, **fields: object) -> str:
    answer = await http.post("/v1/containers", json={"image": "busybox", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def image_id(http: httpx.AsyncClient, **fields: object) -> str:
    body = {"name": "trixie", "path": "/tmp", **fields}
    answer = await http.post("/v1/runtime-images", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_a_runtime_image_is_registered_listed_shown_and_removed(
    http: httpx.AsyncClient,
) -> None:
    registered = await image_id(http)
    listed = (await http.get("/v1/runtime-images")).json()["items"]
    assert [item["id"] for item in listed] == [registered]
    shown = (await http.get(f"/v1/runtime-images/{registered}")).json()["item"]
    assert shown["name"] == "trixie"
    assert shown["files"]["kernel"] == {"size_bytes": 9_000_000, "sha256": "ab" * 32}
    assert (await http.delete(f"/v1/runtime-images/{registered}")).json() == {"ok": True}
    assert (await http.get(f"/v1/runtime-images/{registered}")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"name": "x", "path": "/a", "kernel": "/k", "rootfs": "/r"},
        {"name": "x", "kernel": "/k"},
        {"name": "x", "path": "relative"},
        {"name": "a/b", "path": "/a"},
        {"name": "x", "path": "/a\x00b"},
    ],
)
async def test_an_image_needs_a_folder_or_its_files(
    http: httpx.AsyncClient, body: dict[str, str]
) -> None:
    assert (await http.post("/v1/runtime-images", json=body)).status_code == 422


async def test_a_snapshot_has_the_fields_of_the_specification(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.snapshots.build_s = 0.5  # it is looked at while it is made
    body = {"runtime_image_id": await image_id(http)}
    answer = await http.post("/v1/runtime-snapshots", json=body)
    assert answer.status_code == 201
    assert list(answer.json()) == ["id"]
    snapshot_id = answer.json()["id"]
    item = (await http.get(f"/v1/runtime-snapshots/{snapshot_id}")).json()["item"]
    assert item["state"] == "creating"

    async def made() -> dict[str, object] | None:
        item = (await http.get(f"/v1/runtime-snapshots/{snapshot_id}")).json()["item"]
        return None if item["state"] == "creating" else item

    item = await eventually(made)
    specified = {
        "id", "runtime_image_id", "snapshot_path", "state", "fc_version", "created_at",
        "success_count", "failure_count", "last_used_at", "metadata",
    }  # fmt: skip
    assert specified <= set(item)
    assert item["state"] == "ready"
    assert item["metadata"] == {
        "size_bytes": 900_000_000,
        "mem_size_bytes": 512_000_000,
        "compressed": False,
    }
    assert item["shape"] == {"vcpus": 2, "memory_mib": 1024}


async def test_a_snapshot_can_be_made_with_the_specifications_own_curl_line(
    http: httpx.AsyncClient,
) -> None:
    """``curl -d`` calls the JSON a form."""
    answer = await http.post(
        "/v1/runtime-snapshots",
        content=f'{{"runtime_image_id": "{await image_id(http)}"}}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 201


async def test_a_rebuild_names_the_new_snapshot(http: httpx.AsyncClient) -> None:
    body = {"runtime_image_id": await image_id(http), "shape": {"vcpus": 1, "memory_mib": 512}}
    old = (await http.post("/v1/runtime-snapshots", json=body)).json()["id"]
    answer = (await http.post(f"/v1/runtime-snapshots/{old}/rebuild")).json()
    assert answer["message"] == "Snapshot rebuild initiated"
    new = (await http.get(f"/v1/runtime-snapshots/{answer['id']}")).json()["item"]
    assert new["replaces"] == old
    assert new["shape"] == {"vcpus": 1, "memory_mib": 512}


async def test_a_deleted_snapshot_is_listed_only_when_asked_for(http: httpx.AsyncClient) -> None:
    body = {"runtime_image_id": await image_id(http)}
    snapshot_id = (await http.post("/v1/runtime-snapshots", json=body)).json()["id"]
    assert (await http.delete(f"/v1/runtime-snapshots/{snapshot_id}")).json() == {"ok": True}
    assert (await http.get("/v1/runtime-snapshots")).json() == {"items": []}
    kept = (await http.get("/v1/runtime-snapshots?include_deleted=true")).json()["items"]
    assert [item["state"] for item in kept] == ["deleted"]
    again = await http.delete(f"/v1/runtime-snapshots/{snapshot_id}")
    assert (again.status_code, again.json()["code"]) == (409, "illegal-transition")


@pytest.mark.parametrize(
    "path", ["/v1/runtime-images/{}", "/v1/runtime-snapshots/{}", "/v1/containers/{}"]
)
async def test_an_unknown_id_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await http.request(method, path.format(uuid4()))
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["resolution"]


async def test_a_container_keeps_all_that_was_asked_for(http: httpx.AsyncClient) -> None:
    asked = {
        "name": "web",
        "command": ["sleep", "60"],
        "entrypoint": [],
        "environment": {"A": "1", "B.c": "", "1D": None},
        "ports": [{"container_port": 80, "host_port": 8080}],
        "shape": {"vcpus": 1, "memory_mib": 512},
        "boot": "cold",
        "tty": True,
        "labels": {"team/x": "y"},
        "user": "1000:1000",
        "working_dir": "/data",
        "hostname": "box",
        "stop_signal": "SIGINT",
        "stop_timeout_s": 3,
    }
    await create(http, **asked)
    item = (await http.get("/v1/containers/web/wait?until=running")).json()["item"]
    assert {name: item[name] for name in asked if name != "ports"} == {
        name: value for name, value in asked.items() if name != "ports"
    }
    assert item["ports"] == [
        {"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1", "protocol": "tcp"}
    ]
    assert item["boot_method"] == "cold"
    assert item["fallback_reason"] == "requested"
    assert item["fallback_message"] == "A cold boot was asked for"
    assert item["stages"][0]["name"] == "boot"
    (identity,) = [stage for stage in item["stages"] if stage["name"] == "identity"]
    assert identity["steps"] == [{"name": "clock", "duration_s": 0.0001}]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a/b"},
        {"name": "a..b"},
        {"name": "x" * 64},
        {"name": "a\x00"},
        {"image": "Upper/Case"},
        {"image": ""},
        {"environment": {"A=B": "1"}},
        {"environment": {"A": "x\x00"}},
        {"environment": {"": "x"}},
        {"environment": {"A": 1}},
        {"ports": [{"container_port": 0}]},
        {"ports": [{"container_port": 65_536}]},
        {"ports": [{"container_port": 80, "host_ip": "somewhere"}]},
        {"ports": [{"container_port": 80, "host_ip": "::1"}]},
        {"user": "a\x00"},
        {"working_dir": "data"},
        {"hostname": "Not_A_Name"},
        {"hostname": "x" * 64},
        {"stop_signal": "NONE"},
        {"stop_signal": "65"},
        {"stop_timeout_s": -1},
        {"stop_timeout_s": 1.5},
        {"ports": [{"container_port": 1, "host_port": 9}, {"container_port": 2, "host_port": 9}]},
        {"shape": {"vcpus": 1.5, "memory_mib": 512}},
        {"shape": {"vcpus": 1, "memory_mib": 513}},
        {"shape": {"vcpus": 10**400, "memory_mib": 512}},
        {"tty": "yes"},
        {"surprise": 1},
        {"archive": "short"},
        {"command": ["x\x00"]},
        {"command": "a string"},
    ],
)
async def test_what_can_never_work_is_refused(
    http: httpx.AsyncClient, fields: dict[str, object]
) -> None:
    answer = await http.post("/v1/containers", json={"image": "busybox", **fields})
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == "invalid-request"
    assert problem["errors"][0]["field"].startswith("body")


async def test_a_taken_name_is_a_conflict(http: httpx.AsyncClient) -> None:
    await create(http, name="one")
    answer = await http.post("/v1/containers", json={"image": "busybox", "name": "one"})
    assert (answer.status_code, answer.json()["code"]) == (409, "name-taken")


async def test_a_container_is_found_by_id_prefix_and_name(http: httpx.AsyncClient) -> None:
    created = await create(http, name="findme")
    for ref in (created, created[:8], "findme"):
        assert (await http.get(f"/v1/containers/{ref}")).json()["item"]["id"] == created


async def test_only_running_containers_are_listed_unless_all_are_asked_for(
    http: httpx.AsyncClient,
) -> None:
    await create(http, name="ended", command=["exit", "3"])
    await create(http, name="going")
    await http.get("/v1/containers/ended/wait")
    await http.get("/v1/containers/going/wait?until=running")

    async def names(query: str) -> set[str]:
        items = (await http.get(f"/v1/containers{query}")).json()["items"]
        return {item["name"] for item in items}

    assert await names("") == {"going"}
    assert await names("?all=true") == {"going", "ended"}


async def test_stop_start_restart_and_delete(http: httpx.AsyncClient) -> None:
    await create(http, name="c")
    await http.get("/v1/containers/c/wait?until=running")
    refused = await http.delete("/v1/containers/c")
    assert (refused.status_code, refused.json()["code"]) == (409, "in-use")
    assert (await http.post("/v1/containers/c/stop?timeout_s=1")).json() == {"ok": True}
    item = (await http.get("/v1/containers/c")).json()["item"]
    assert (item["state"], item["exit_code"]) == ("exited", 143)
    assert (await http.post("/v1/containers/c/start")).json() == {"ok": True}
    assert (await http.post("/v1/containers/c/restart")).json() == {"ok": True}
    assert (await http.get("/v1/containers/c")).json()["item"]["state"] == "running"
    assert (await http.delete("/v1/containers/c?force=true")).json() == {"ok": True}
    assert (await http.get("/v1/containers/c")).status_code == 404


async def test_a_signal_is_sent(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    await create(http, name="c")
    await http.get("/v1/containers/c/wait?until=running")
    assert (await http.post("/v1/containers/c/kill?signal=usr1")).json() == {"ok": True}
    assert (await http.post("/v1/containers/c/kill")).status_code == 409
    await http.post("/v1/containers/c/start")
    assert (await http.post("/v1/containers/c/stop?signal=SIGINT")).json() == {"ok": True}
    assert fakes.containers.signals == ["SIGUSR1", "SIGINT"]
    for wrong in ("NONE", "0", "65", "", "TERM+1"):
        answer = await http.post("/v1/containers/c/kill", params={"signal": wrong})
        assert answer.status_code == 422, wrong


async def test_logs_are_asked_for_by_time(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    await create(http, name="c", command=["echo", "hi"])
    await http.get("/v1/containers/c/wait")
    times = {"since": "2026-01-24T13:00:00+01:00", "until": "2026-01-24T12:00:01Z"}
    assert (await http.get("/v1/containers/c/logs", params=times)).status_code == 200
    since, until = fakes.containers.asked_times
    assert since == datetime(2026, 1, 24, 12, tzinfo=UTC)
    assert until == datetime(2026, 1, 24, 12, 0, 1, tzinfo=UTC)
    for wrong in ("yesterday", "2026-01-24T12:00:00"):
        answer = await http.get("/v1/containers/c/logs", params={"since": wrong})
        assert answer.status_code == 422, wrong


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "1e9", "x"])
async def test_a_time_without_sense_is_refused(http: httpx.AsyncClient, timeout: str) -> None:
    answer = await http.post(f"/v1/containers/c/stop?timeout_s={timeout}")
    assert answer.status_code == 422


async def test_wait_gives_up_when_the_time_is_over(http: httpx.AsyncClient) -> None:
    await create(http, name="long")
    answer = await http.get("/v1/containers/long/wait?until=exited&timeout_s=0.1")
    assert answer.json()["item"]["state"] in ("creating", "running")


async def test_logs_are_plain_text_or_framed(http: httpx.AsyncClient) -> None:
    await create(http, name="c", command=["err", "oh", "no"])
    await http.get("/v1/containers/c/wait")
    plain = await http.get("/v1/containers/c/logs")
    assert plain.headers["x-content-type-options"] == "nosniff"  # or the page could run it
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert plain.text == "oh no\n"
    accept = {"Accept": "application/vnd.docker.multiplexed-stream"}
    framed = await http.get("/v1/containers/c/logs", headers=accept)
    assert framed.headers["content-type"] == accept["Accept"]
    assert framed.content == b"\x02\0\0\0\0\0\0\x06oh no\n"


async def test_logs_tail_and_timestamps(http: httpx.AsyncClient) -> None:
    await create(http, name="c", command=["ticks", "3"])
    await http.get("/v1/containers/c/wait")
    assert (await http.get("/v1/containers/c/logs?tail=1")).text == "tick 2\n"
    assert (await http.get("/v1/containers/c/logs?tail=0")).text == ""
    stamped = (await http.get("/v1/containers/c/logs?tail=1&timestamps=true")).text
    assert stamped.endswith("Z tick 2\n")


async def test_an_archive_is_known_by_its_sum(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    answer = await http.post(
        "/v1/archives", content=b"tar" * 900_000, headers={"Content-Type": "application/x-tar"}
    )
    assert answer.status_code == 201
    archive = answer.json()["id"]
    assert len(fakes.archives.kept[archive]) == 2_700_000
    await create(http, name="c", archive=archive)
    missing = await http.post("/v1/containers", json={"image": "x", "archive": "0" * 64})
    assert missing.status_code == 404


async def test_events_come_in_pages(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    for number in range(5):
        fakes.events.add("container.stage", "c", stage=str(number))
    first = (await http.get("/v1/events?limit=2")).json()["items"]
    assert [event["id"] for event in first] == [1, 2]
    rest = (await http.get("/v1/events?after=2")).json()["items"]
    assert [event["data"]["stage"] for event in rest] == ["2", "3", "4"]


async def test_health_checks_info_and_doctor(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    assert (await http.get("/healthz")).json() == {"ok": True}
    assert (await http.get("/readyz")).json() == {"ok": True}
    assert (await http.get("/v1/info")).json()["item"]["default_shape"]["vcpus"] == 2
    checks = (await http.get("/v1/doctor")).json()["items"]
    assert [check["ok"] for check in checks] == [True, False, True]


async def test_metrics_count_routes_not_paths(http: httpx.AsyncClient) -> None:
    await http.get("/v1/containers/some-name")
    await http.get("/no/such/path")
    text = (await http.get("/metrics")).text
    assert 'route="/v1/containers/{ref}",status="404"} 1.0' in text
    assert "some-name" not in text
    assert "/no/such" not in text
