"""Whatever goes wrong is told as application/problem+json, with what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.support.fake_services import FakeServices

from warmboot.api.middleware.body import MAX_BODY_BYTES, MAX_CREATION_BYTES
from warmboot.api.problems import status_of
from warmboot.model import errors
from warmboot.model.conventions.program_start import MAX_WORD_BYTES


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequest, 422),
        (errors.InvalidName, 422),
        (errors.Unauthorized, 401),
        (errors.NotFound, 404),
        (errors.Conflict, 409),
        (errors.NameTaken, 409),
        (errors.InUse, 409),
        (errors.IllegalTransition, 409),
        (errors.NotSupported, 422),
        (errors.Unavailable, 503),
        (errors.RegistryUnavailable, 503),
        (errors.EngineUnavailable, 503),
        (errors.DiskFull, 507),
        (errors.HostError, 500),
        (errors.GuestError, 500),
        (errors.GuestUnreachable, 503),
        (errors.SnapshotDamaged, 500),
        (errors.ImageDamaged, 422),
        (errors.VmGone, 409),
        (errors.ImageNotFound, 422),
        (errors.WarmbootError, 500),
    ],
)
async def test_every_error_has_its_status_and_tells_all_it_knows(
    http: httpx.AsyncClient, fakes: FakeServices, kind: type[errors.WarmbootError], status: int
) -> None:
    error = kind("it went wrong", details="seen", resolution="do that")
    assert status_of(error) == status
    fakes.containers.fail_creation = error
    answer = await http.post("/v1/containers", json={"image": "busybox"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": f"urn:warmboot:problem:{kind.code}",
        "title": "it went wrong",
        "status": status,
        "detail": "seen",
        "code": kind.code,
        "resolution": "do that",
    }


async def test_what_does_not_answer_now_may_later(
    http: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.containers.fail_creation = errors.GuestUnreachable("Docker in the VM does not answer")
    answer = await http.post("/v1/containers", json={"image": "busybox"})
    assert int(answer.headers["retry-after"]) > 0
    document = (await http.get("/openapi.json")).json()
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "Retry-After" in operation["responses"]["503"]["headers"]


async def test_unknown_paths_and_methods_are_problems_too(http: httpx.AsyncClient) -> None:
    path = await http.get("/v1/nothing")
    assert (path.status_code, path.json()["code"]) == (404, "not-found")
    method = await http.put("/v1/containers")
    assert (method.status_code, method.json()["code"]) == (405, "method-not-allowed")
    assert method.headers["allow"] == "GET, POST"


async def test_a_bug_is_logged_with_an_id_and_no_traceback_is_shown(
    http: httpx.AsyncClient, fakes: FakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.system.error = ZeroDivisionError("the secret inside")
    with caplog.at_level(logging.ERROR):
        answer = await http.get("/v1/info")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["id"] in caplog.text
    assert "the secret inside" in caplog.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[" * 100_000, 400),
        (b'{"image": "\xff"}', 400),
        (b'{"image": "a\\ud800"}', 422),
        (b'{"image": "a", "\\ud800": 1}', 422),
        (b'{"image": "a", "name": "\\u0000"}', 422),
        (b'{"image": ' + b"9" * 10_000 + b"}", 400),
        (b'{"image": NaN}', 422),
        (b"null", 422),
        (b'"text"', 422),
        (b"", 422),
    ],
)
async def test_a_malformed_body_is_the_callers_fault(
    http: httpx.AsyncClient, body: bytes, status: int
) -> None:
    answer = await http.post(
        "/v1/containers", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    json.loads(answer.content.decode("utf-8"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"image": "caf\xe9"}', "it is not UTF-8 text"),
    ],
)
async def test_a_body_that_cannot_be_read_is_told_why(
    http: httpx.AsyncClient, body: bytes, why: str
) -> None:
    answer = await http.post(
        "/v1/containers", content=body, headers={"Content-Type": "application/json"}
    )
    told = answer.json()
    assert (answer.status_code, told["title"], told["detail"]) == (400, "the body is no JSON", why)


async def test_what_is_no_json_is_told_as_such(http: httpx.AsyncClient) -> None:
    told = (await http.post("/v1/containers", content=b'{"image": redis}')).json()
    assert told["title"] == "the body is no JSON"
    assert "character 10" in told["detail"]
    assert told["errors"] == [{"field": "body", "message": told["detail"]}]


async def test_another_content_type_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/containers", content=b"<x/>", headers={"Content-Type": "application/xml"}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "wrong-media-type")


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/containers", MAX_CREATION_BYTES),
        ("/v1/workers", MAX_CREATION_BYTES),
        ("/v1/runtime-images", MAX_BODY_BYTES),
    ],
)
async def test_a_body_over_its_limit_is_refused(
    http: httpx.AsyncClient, path: str, limit: int
) -> None:
    declared = await http.post(path, json={"image": "x" * limit})
    assert declared.status_code == 413
    assert declared.json()["title"] == f"the body is over {limit} bytes"

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(limit // 2**20 + 1):
            yield b"x" * 2**20

    streamed = await http.post(path, content=chunks())
    assert streamed.status_code == 413


ASTRAL = "\U0001f600"
"""JSON may write it with twelve characters."""


async def test_the_largest_container_and_worker_that_the_schema_allows_arrive(
    http: httpx.AsyncClient,
) -> None:
    word, path = "\x01" * MAX_WORD_BYTES, "/" + ASTRAL * 4094
    labels = {f"{n:03}" + ASTRAL * 253: ASTRAL * 4096 for n in range(256)}
    common = {
        "image": "busybox",
        "command": [word] * 14 + [word[200:]],
        "environment": {"N": word[2:]},
    }
    port = {"container_port": 80, "host_ip": "127.0.0.1", "protocol": "tcp"}
    ports = [port | {"host_port": number} for number in range(10_001, 10_257)]
    container = {"labels": labels, "working_dir": path, "user": ASTRAL * 256, "ports": ports}
    mounts = [{"source": path, "target": f"/{n:02}{path[3:]}"} for n in range(64)]
    for kind, more in (
        ("containers", container),
        ("workers", {"labels": labels, "mounts": mounts}),
    ):
        body = json.dumps(common | more, indent=4).encode()
        answer = await http.post(
            f"/v1/{kind}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (201, 202), answer.text[:2000]


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "9" * 30])
async def test_a_content_length_without_sense_is_refused(
    http: httpx.AsyncClient, length: str
) -> None:
    for path in ("/v1/containers", "/v1/archives"):
        answer = await http.post(path, content=b"{}", headers={"Content-Length": length})
        assert answer.status_code == 400


@pytest.mark.parametrize("ref", ["a%00b", "..", "a..b", "%2e%2e%2fetc", "x" * 64, "-a", "%ff"])
async def test_a_strange_container_name_is_refused(http: httpx.AsyncClient, ref: str) -> None:
    assert (await http.get(f"/v1/containers/{ref}")).status_code in (404, 422)
    assert (await http.delete(f"/v1/containers/{ref}")).status_code in (404, 405, 422)
