"""Tokens; and without tokens, nothing but this machine."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from tests.api.conftest import Peers, http_to, served
from tests.support.fake_services import FakeServices
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from warmboot.api import check_bind, create_app
from warmboot.model.conventions.caller import CALLER
from warmboot.model.errors import InvalidRequest

TOKENS = frozenset({"one-token", "other-token"})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_known_token_opens_and_any_other_does_not(fakes: FakeServices) -> None:
    async with http_to(create_app(fakes.services, tokens=TOKENS)) as http:
        for token in TOKENS:
            assert (await http.get("/v1/containers", headers=bearer(token))).status_code == 200
        for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic one-token"}):
            answer = await http.get("/v1/containers", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_who_goes_first_is_decided_by_the_token(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, create = list[str](), fakes.containers.create

    async def note(*given: Any, **options: Any) -> Any:
        seen.append(CALLER.get())
        return await create(*given, **options)

    monkeypatch.setattr(fakes.containers, "create", note)
    async with http_to(create_app(fakes.services, tokens=TOKENS)) as http:
        for number, token in enumerate(("one-token", "other-token", "one-token")):
            body = {"name": f"c{number}", "image": "busybox"}
            answer = await http.post("/v1/containers", json=body, headers=bearer(token))
            assert answer.status_code < 300, answer.text
    assert seen[0] == seen[2] != seen[1]
    assert "" not in seen
    assert "token" not in "".join(seen), "not the token itself"


async def test_only_health_checks_are_open_when_there_are_tokens(fakes: FakeServices) -> None:
    app = create_app(fakes.services, tokens=TOKENS)
    async with http_to(app) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        for path in ("/metrics", "/openapi.json", "/v1/events", "/nothing"):
            assert (await http.get(path)).status_code == 401


async def test_with_a_token_any_host_name_is_served(fakes: FakeServices) -> None:
    async with http_to(create_app(fakes.services, tokens=TOKENS)) as http:
        headers = bearer("one-token") | {"Host": "vm-host.example"}
        assert (await http.get("/v1/info", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:18080", "localhost", "LOCALHOST:1", "[::1]:18080", "127.9.9.9"]
)
async def test_local_hosts_are_served(http: httpx.AsyncClient, host: str) -> None:
    assert (await http.get("/v1/info", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:18080", "10.0.0.1", "127.0.0.1.evil.example", "a@b"]
)
async def test_foreign_hosts_are_refused(http: httpx.AsyncClient, host: str) -> None:
    answer = await http.get("/v1/info", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign-origin")


async def test_only_pages_of_this_server_may_call(http: httpx.AsyncClient) -> None:
    own = {"Host": "127.0.0.1:18080", "Origin": "http://127.0.0.1:18080"}
    assert (await http.get("/v1/info", headers=own)).status_code == 200
    for origin in ("http://evil.example", "http://127.0.0.1:3000", "null", ""):
        answer = await http.get("/v1/info", headers=own | {"Origin": origin})
        assert answer.status_code == 403, origin
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 403)):
        answer = await http.get("/v1/info", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status, site


async def test_websockets_need_the_token_too(fakes: FakeServices) -> None:
    nobody = Peers("not root")
    async with served(create_app(fakes.services, tokens=TOKENS, peers=nobody)) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url.replace("http", "ws") + "/v1/containers/c/exec", proxy=None)
        assert refused.value.response.status_code == 401


async def test_websockets_of_foreign_pages_are_refused(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(
            url.replace("http", "ws") + "/v1/containers/c/exec",
            additional_headers={"Origin": "http://evil.example"},
            proxy=None,
        )
    assert refused.value.response.status_code == 403


async def test_logs_never_show_tokens(
    fakes: FakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.system.error = RuntimeError("bug")
    with caplog.at_level(logging.DEBUG):
        async with http_to(create_app(fakes.services, tokens=TOKENS)) as http:
            await http.get("/v1/info", headers=bearer("one-token"))
            await http.get("/v1/info", headers=bearer("a-wrong-token"))
    assert "bug" in caplog.text
    assert "one-token" not in caplog.text
    assert "a-wrong-token" not in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_loopback_may_be_bound_without_tokens(host: str) -> None:
    check_bind(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(InvalidRequest, match="without tokens") as told:
        check_bind(host, ())
    assert "MANAGER_TOKENS" in told.value.resolution
    check_bind(host, {"token"})
