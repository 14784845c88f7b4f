"""Logins come in, and are never said again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.support.fake_services import FakeServices

from warmboot.model.conventions.registry_logins import MOST_BYTES, RegistryLogin

PATH = "/v1/engines/ci/registry-logins"
SECRET = "s3cret-s3cret"


async def test_an_engine_is_logged_in(http: httpx.AsyncClient, fakes: FakeServices) -> None:
    assert (await http.put(PATH, json={"logins": []})).status_code == 404
    await http.post("/v1/engines", json={"name": "ci"})
    login = {"registry": "a.example", "username": "me", "password": SECRET}
    assert (await http.put(PATH, json={"logins": [login]})).json() == {"ok": True}
    assert fakes.engines.logins["ci"] == [RegistryLogin("a.example", "me", SECRET)]
    shown = await http.get("/v1/engines/ci")
    assert SECRET not in shown.text
    assert (await http.get(PATH)).status_code == 405


@pytest.mark.parametrize(
    "login",
    [
        {"registry": "a.example", "password": SECRET * 1000},
        {"registry": "a.example", "password": [SECRET]},
        {"registry": "a.example", "passwd": SECRET},
        {"registry": f"a b {SECRET}", "password": SECRET},
        {"password": SECRET},
        {"registry": "a.example", "password": SECRET, "identity_token": "\0" + SECRET},
        [SECRET],
        SECRET,
    ],
)
async def test_a_login_that_is_refused_is_not_told(http: httpx.AsyncClient, login: Any) -> None:
    await http.post("/v1/engines", json={"name": "ci"})
    refused = await http.put(PATH, json={"logins": [login]})
    assert (refused.status_code, SECRET in refused.text) == (422, False), refused.text


async def test_more_than_fits_in_a_request_to_docker_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/v1/engines", json={"name": "ci"})
    logins = [{"registry": f"{n}.example", "password": "x" * (MOST_BYTES // 2)} for n in range(3)]
    refused = await http.put(PATH, json={"logins": logins})
    assert (refused.status_code, "xxx" in refused.text) == (422, False)
