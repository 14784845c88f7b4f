"""What does not fit the schema is answered in sentences, for every rule that the schema has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.support.fake_services import FakeServices

from warmboot.api import create_app, openapi
from warmboot.api.sentences import PATTERNS
from warmboot.model.conventions.image_references import IMAGE_PATTERN
from warmboot.model.conventions.signals import SIGNAL_PATTERN

IMAGE = {"image": "busybox"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "it is missing"),
        ([], "it must be an object"),
        ({**IMAGE, "imagine": 1}, "there is no such field"),
        ({"image": 7}, "it must be a text"),
        ({"image": ""}, "it must not be empty"),
        ({**IMAGE, "user": "u" * 300}, "it must have at most 256 characters"),
        ({**IMAGE, "user": "a\0b"}, "it must not contain the character NUL"),
        ({**IMAGE, "hostname": "A"}, "up to 63 letters in lower case and digits are allowed"),
        ({**IMAGE, "working_dir": "a"}, "it must be an absolute path"),
        ({**IMAGE, "archive": "a"}, "it must be the id of an archive"),
        ({**IMAGE, "labels": {"a b": ""}}, "it must not contain '=', white space or"),
        ({**IMAGE, "labels": {"a\x85": ""}}, "it must not contain '=', white space or"),
        ({**IMAGE, "tty": 1}, "it must be true or false"),
        ({**IMAGE, "boot": "hot"}, "it must be 'auto' or 'cold'"),
        ({**IMAGE, "ports": {}}, "it must be a list"),
        ({**IMAGE, "environment": []}, "it must be an object"),
        (
            {**IMAGE, "labels": dict.fromkeys(map(str, range(257)), "")},
            "it must have at most 256 entries",
        ),
        ({**IMAGE, "stop_timeout_s": 1.5}, "it must be a whole number"),
        ({**IMAGE, "stop_timeout_s": -1}, "it must be 0 or more"),
        ({**IMAGE, "stop_timeout_s": 3601}, "it must be 3600 or less"),
        ({**IMAGE, "shape": {"vcpus": 1, "memory_mib": 257}}, "it must be a multiple of 2"),
        ({**IMAGE, "shape": {"vcpus": 1, "memory_mib": 102400}}, "it must be 65536 or less"),
        (
            {**IMAGE, "ports": [{"container_port": one, "host_port": 9} for one in (1, 2)]},
            "the host port 127.0.0.1:9/tcp is published twice, for the container's ports 1 and 2",
        ),
        ({**IMAGE, "runtime_image_id": "x"}, "it must be an id, as"),
        ({**IMAGE, "runtime_image_id": 7}, "it must be an id, as"),
    ],
)
async def test_a_body_that_does_not_fit(
    http: httpx.AsyncClient, body: dict[str, Any], sentence: str
) -> None:
    answer = await http.post("/v1/containers", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/containers/a b", "letters, digits, '_', '.' and '-' are allowed"),
        ("/v1/containers?all=perhaps", "it must be true or false"),
        ("/v1/containers/c/logs?tail=many", "it must be a whole number"),
        ("/v1/containers/c/logs?tail=-1", "it must be 0 or more"),
        ("/v1/containers/c/logs?since=yesterday", "it must be a time, as 2026"),
        ("/v1/containers/c/logs?since=2026-01-24T12:00:00", "it must have a time zone"),
        ("/v1/containers/c/wait?timeout_s=long", "it must be a number"),
        ("/v1/containers/c/wait?timeout_s=inf", "it must be a finite number"),
        ("/v1/containers/c/wait?until=soon", "it must be 'booted', 'running', 'healthy' or "),
        ("/v1/runtime-snapshots/x", "it must be an id, as"),
        (f"/v1/events?after={2**63}", f"it must be {2**63 - 1} or less"),
    ],
)
async def test_a_path_or_a_query_that_does_not_fit(
    http: httpx.AsyncClient, path: str, sentence: str
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)


def patterns(part: Any) -> Iterator[str]:
    """All that a part of the document names; those of answers are the manager's to keep."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        for name, child in part.items():
            if name != "responses" and not name.endswith("Out"):
                yield from patterns(child)
    elif isinstance(part, list):
        for child in part:
            yield from patterns(child)


def test_what_has_a_pattern_has_words() -> None:
    told_by_validators = {IMAGE_PATTERN, SIGNAL_PATTERN}
    told_by_the_middleware = {openapi._KEY_PARAMETER["schema"]["pattern"]}
    document = create_app(FakeServices().services).openapi()
    assert {*patterns(document)} <= {*PATTERNS} | told_by_validators | told_by_the_middleware


async def test_a_header_that_does_not_fit_is_named_as_it_is_sent(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/events", headers={"Last-Event-ID": "x"})
    assert answer.status_code == 422
    found = [{"field": "header.last-event-id", "message": "it must be a whole number"}]
    assert answer.json()["errors"] == found


async def test_a_bound_is_said_as_people_write_it(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/containers/c/wait", params={"timeout_s": 1e9})
    assert answer.json()["detail"] == "it must be 3600 or less"


async def test_a_whole_number_may_be_written_with_a_point(http: httpx.AsyncClient) -> None:
    """As the schema has it: some languages know no other numbers."""
    body = {**IMAGE, "stop_timeout_s": 5.0, "shape": {"vcpus": 1.0, "memory_mib": 512.0}}
    made = await http.post("/v1/containers", json=body)
    assert made.status_code == 201
    item = (await http.get(f"/v1/containers/{made.json()['id']}")).json()["item"]
    assert (item["stop_timeout_s"], item["requested_shape"]["memory_mib"]) == (5, 512)
