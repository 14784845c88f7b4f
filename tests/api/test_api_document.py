"""The API's document: whoever generates a client or reads ``/docs`` finds all of it described."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from functools import cache
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Peers, http_to
from tests.support.fake_services import FakeServices
from typing_extensions import override
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from warmboot.api import create_app
from warmboot.api.schemas.descriptions import FIELDS
from warmboot.model.shapes import MAX_MEMORY_MIB, MAX_VCPUS, Capacity, Shape


@cache
def application() -> FastAPI:
    """One for all tests: to describe itself takes it a second."""
    return create_app(FakeServices().services, peers=Peers())


def schemas() -> dict[str, Any]:
    return dict(application().openapi()["components"]["schemas"])


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_to(application()) as client:
        yield client


def operations() -> Iterator[tuple[str, str, Any]]:
    for path, methods in application().openapi()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_an_operation_s_id_is_what_a_client_s_method_is_called() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)
    for one in ids:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", one), one
        assert "_v1_" not in one
    for expected in ("create_container", "list_containers", "get_container", "delete_container"):
        assert expected in ids


def test_every_field_is_described() -> None:
    """In its model, or in ``schemas/descriptions``."""
    assert schemas()
    undescribed = [
        f"{model}.{name}"
        for model, schema in schemas().items()
        for name, field in schema.get("properties", {}).items()
        if not field.get("description")
    ]
    assert undescribed == []


def test_every_parameter_is_described() -> None:
    for path, method, operation in operations():
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{method} {path}: {parameter['name']}"


def test_what_is_described_exists() -> None:
    fields: dict[str, set[str]] = {}
    for model, schema in schemas().items():
        for name in schema.get("properties", {}):
            fields.setdefault(name, set()).add(model)
    for key in FIELDS:
        model, _, name = key.rpartition(".")
        assert name in fields, key
        assert not model or model in fields[name], key


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/v1/containers?al=true", "there is no such parameter here; there are all"),
        ("/v1/info?all=true", "there is no such parameter here; there are none"),
        ("/v1/containers/c/logs?tial=3&x=1", "query.tial: there is no such parameter here"),
        ("/metrics?name=x", "there is no such parameter here; there are none"),
        ("/openapi.json?v=1", "there is no such parameter here; there are none"),
        ("/docs?v=1", "there is no such parameter here; there are none"),
    ],
)
async def test_an_unknown_parameter_is_refused(
    http: httpx.AsyncClient, path: str, detail: str
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize("twice", ["all=true&all=false", "limit=1&limit=1", "name=a&x&name=b"])
async def test_a_parameter_that_is_given_twice_is_refused(
    http: httpx.AsyncClient, twice: str
) -> None:
    answer = await http.get(f"/v1/containers?{twice}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {
        "field": f"query.{twice.partition('=')[0]}",
        "message": "it is given 2 times, and may be given once",
    }


@pytest.mark.parametrize("path", ["containers/c/stop", "containers/c/kill", "containers/c/start"])
async def test_a_body_that_nothing_is_read_from_is_refused(
    http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.post(f"/v1/{path}", json={"signal": "TERM"})
    assert answer.status_code == 422
    assert "nothing is read from it" in answer.json()["detail"]
    for empty in (b"", b"{}", b"null\n"):
        answer = await http.post(f"/v1/{path}", content=empty)
        assert answer.status_code != 422


async def test_a_parameter_that_may_be_given_often_may_be_so(http: httpx.AsyncClient) -> None:
    for often in ("label=a&label=b", "state=exited&state=failed"):
        assert (await http.get(f"/v1/containers?{often}")).status_code == 200


async def test_a_session_with_an_unknown_parameter_is_refused(url: str) -> None:
    for query in ("loggs=false", "logs=true&logs=false"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url.replace('http', 'ws')}/v1/containers/c/attach?{query}", proxy=None)
        assert refused.value.response.status_code == 422


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_health_check_may_send_what_it_likes(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(f"{path}?now=1&now=2")).status_code == 200


async def test_the_document_is_served(http: httpx.AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json() == application().openapi()
    assert (await http.head("/openapi.json")).status_code == 200


# -- what passes the schema is accepted ------------------------------------------------------------


def test_the_largest_shape_is_this_machine_s() -> None:
    document = create_app(FakeServices().services, largest=Shape(3, 2048)).openapi()
    shape = document["components"]["schemas"]["ShapeIn"]["properties"]
    assert (shape["vcpus"]["maximum"], shape["memory_mib"]["maximum"]) == (3, 2048)


@pytest.mark.parametrize(
    ("machine", "largest"),
    [
        (Capacity(4, 4001), Shape(4, 4000)),
        (Capacity(1, 300), Shape(2, 768)),
        (Capacity(128, 1 << 20), Shape(MAX_VCPUS, MAX_MEMORY_MIB)),
    ],
)
def test_the_largest_shape_is_accepted(machine: Capacity, largest: Shape) -> None:
    default = Shape(2, 768)
    assert machine.largest(default) == largest
    machine.check(largest, default)


@pytest.mark.parametrize("path", ["/v1/containers", "/v1/workers"])
async def test_the_longest_words_are_accepted_and_longer_ones_refused(
    http: httpx.AsyncClient, path: str
) -> None:
    async def accepted(**more: Any) -> bool:
        answer = await http.post(path, json={"image": "busybox", **more})
        return answer.status_code == 201

    fields = schemas()["ContainerIn" if path.endswith("containers") else "WorkerIn"]["properties"]
    (words,) = (one for one in fields["command"]["anyOf"] if "items" in one)
    longest = "x" * words["items"]["maxLength"]
    assert await accepted(command=[longest])
    assert not await accepted(command=[f"{longest}x"])
    environment = fields["environment"]
    (value,) = environment["patternProperties"].values()
    longest = "x" * value["anyOf"][0]["maxLength"]
    assert await accepted(environment={"A": longest})
    assert not await accepted(environment={"A": f"{longest}x"})
    longest = "x" * environment["propertyNames"]["maxLength"]
    assert await accepted(environment={longest: ""})
    assert not await accepted(environment={f"{longest}x": None})


# -- /docs -----------------------------------------------------------------------------------------


async def test_the_page_shows_every_operation_and_every_model(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.status_code == 200
    for path, method, operation in operations():
        assert f'id="{operation["operationId"]}"' in answer.text
        assert f"{method.upper()} {path}" in answer.text
    for model in schemas():
        assert f'id="model-{model}"' in answer.text


class Fetched(HTMLParser):
    """What a browser would get or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "link", "img", "iframe") or "src" in given:
            self.found.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if target := given.get("href"):
            self.targets.append(target)
        if name := given.get("id"):
            self.ids.append(name)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_is_whole_and_fetches_nothing(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    page = Fetched()
    page.feed(answer.text)
    assert (page.found, page.open) == ([], [])
    assert "url(" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    within = {target.removeprefix("#") for target in page.targets if target.startswith("#")}
    assert within <= {*page.ids}
    assert [target for target in page.targets if not target.startswith("#")] == ["openapi.json"]


async def test_the_page_is_for_those_who_may_use_the_api(fakes: FakeServices) -> None:
    async with http_to(create_app(fakes.services, peers=Peers("you are nobody"))) as stranger:
        assert (await stranger.get("/docs")).status_code == 401
