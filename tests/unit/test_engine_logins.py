"""The front sends logins along with pulls, pushes and builds that have none."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.engine_sockets import TIMEOUT_S, Served, serving
from tests.support.fake_dockerd import FakeGuest

from warmboot.engine_socket.docker_form import with_login
from warmboot.engine_socket.front import Front
from warmboot.engine_socket.limits import MOST_HEAD_BYTES
from warmboot.host.engine_front import EngineFront
from warmboot.model.conventions.engine_front import CODE, CONTROL_SOCKET, ServedEngine
from warmboot.model.conventions.registry_logins import (
    MOST_BYTES,
    RegistryLogin,
    check_size,
    registry_of,
)
from warmboot.model.errors import InvalidRequest
from warmboot.system.hashing import code_digest

HUB = "https://index.docker.io/v1/"
ME = RegistryLogin("docker.io", "me", "ünsafe")
TEAM = RegistryLogin("https://registry.example:5000/v2/", identity_token="token")
LOGINS = (ME, TEAM)
MINE = {"username": "me", "password": "ünsafe", "serveraddress": HUB}
TEAMS = {"identitytoken": "token", "serveraddress": "registry.example:5000"}
THEIRS = {"username": "they", "password": "p"}


def encoded(said: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(said).encode())


def said(headers: list[tuple[bytes, bytes]] | None, name: str) -> Any:
    (value,) = [v for n, v in headers or [] if n.lower() == name.encode()]
    return json.loads(base64.urlsafe_b64decode(value))


@pytest.mark.parametrize(
    ("target", "login"),
    [
        ("/v1.44/images/create?fromImage=redis&tag=7", MINE),
        ("/images/create?fromImage=docker.io%2Flibrary%2Fredis", MINE),
        ("/images/create?tag=1&fromImage=registry.example:5000/a/b", TEAMS),
        ("/v1.41/images/registry.example:5000/a/b/push?tag=1", TEAMS),
        ("/images/team/app/push", MINE),
        ("/v1.44/distribution/registry.example:5000%2Fa/json", TEAMS),
    ],
)
def test_an_image_is_asked_for_with_the_login_at_its_registry(
    target: str, login: dict[str, str]
) -> None:
    for given_ in ([], [(b"x-registry-auth", encoded({}))], [(b"X-Registry-Auth", b"")]):
        headers = with_login(LOGINS, target.encode(), [(b"Host", b"d"), *given_])
        assert said(headers, "x-registry-auth") == login
        assert (headers or [])[0] == (b"Host", b"d")


@pytest.mark.parametrize(
    "target",
    [
        "/images/create?fromImage=other.example/a",
        "/images/create?fromSrc=-&repo=registry.example:5000/a",
        "/images/registry.example/a/push",
        "/images/json",
        "/containers/create?name=a",
        "/images/redis/json",
        "/auth",
    ],
)
def test_nothing_else_is_sent_with_a_login(target: str) -> None:
    assert with_login(LOGINS, target.encode(), []) is None


@pytest.mark.parametrize(
    "value",
    [encoded(THEIRS), encoded({"registrytoken": "t"}), encoded({"auth": "eA=="}), b"?", b"bm8="],
)
def test_a_login_that_the_client_has_is_its_own_affair(value: bytes) -> None:
    headers = [(b"X-Registry-Auth", value)]
    assert with_login(LOGINS, b"/images/create?fromImage=redis", headers) is None


def test_a_build_has_those_too_that_the_client_has_not() -> None:
    build = b"/v1.43/build?t=app"
    every = {HUB: MINE, "registry.example:5000": TEAMS}
    for given_ in ([], [(b"X-Registry-Config", encoded({}))]):
        assert said(with_login(LOGINS, build, given_), "x-registry-config") == every
    theirs = {"https://index.docker.io/v1/": THEIRS, "registry.example:5000": {}, "b": THEIRS}
    headers = with_login(LOGINS, build, [(b"X-Registry-Config", encoded(theirs))])
    assert said(headers, "x-registry-config") == {**theirs, "registry.example:5000": TEAMS}
    has_all = encoded({"docker.io": THEIRS, "http://registry.example:5000": THEIRS})
    assert with_login(LOGINS, build, [(b"X-Registry-Config", has_all)]) is None
    assert with_login(LOGINS, build, [(b"X-Registry-Config", b"bm8=")]) is None


@given(st.text(max_size=30))
def test_whatever_an_image_is_called_it_has_one_registry(name: str) -> None:
    host = registry_of(name)
    assert host == "docker.io" or name.lower().startswith(host)


def test_of_a_login_nothing_secret_is_shown() -> None:
    login = RegistryLogin("a.example", *["secret"] * 4)
    assert "secret" not in repr(login)
    assert "a.example" in repr(login)


def test_logins_fit_in_the_head_of_a_request() -> None:
    with pytest.raises(InvalidRequest, match="logins take"):
        check_size([RegistryLogin("a.example", "a", "x" * MOST_BYTES)])
    few = [RegistryLogin(f"{n}.example", "a", "x" * (MOST_BYTES // 3 - 200)) for n in range(3)]
    check_size(few)
    headers = with_login(few, b"/build", []) or []
    assert sum(len(value) for _, value in headers) < MOST_HEAD_BYTES - 8192


async def ask(served: Served, target: str, *headers: str) -> int:
    client = await served.connect()
    lines = [f"POST {target} HTTP/1.1", "Host: d", *headers, "Content-Length: 0", "", ""]
    await client.send("\r\n".join(lines).encode())
    status, _ = await client.answer()
    client.close()
    return status


def seen(guest: FakeGuest) -> list[Any]:
    """The logins of each request."""
    values = [dict(asked.headers).get("X-Registry-Auth") for asked in guest.asked]
    return [value and json.loads(base64.urlsafe_b64decode(value)) for value in values]


async def test_the_engines_docker_gets_them_while_it_has_them() -> None:
    async with serving() as served:
        pull = "/v1.44/images/create?fromImage=redis"
        assert await ask(served, pull) == 200
        served.front.logins = LOGINS
        assert await ask(served, pull) == 200
        assert await ask(served, pull, f"X-Registry-Auth: {encoded(THEIRS).decode()}") == 200
        served.front.logins = ()
        assert await ask(served, pull) == 200
        assert seen(served.guest) == [None, MINE, THEIRS, None]


async def test_a_head_that_logins_make_too_long_is_refused() -> None:
    async with serving() as served:
        long = [f"X-Filler-{n}: {'x' * 2000}" for n in range(MOST_HEAD_BYTES // 2030)]
        served.front.logins = (RegistryLogin("docker.io", "me", "x" * 4000),)
        assert await ask(served, "/images/create?fromImage=redis", *long) == 431
        assert seen(served.guest) == []


async def test_a_front_keeps_them_for_each_engine_until_that_is_forgotten(tmp_path: Path) -> None:
    """The next manager finds them with the same front."""
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / CONTROL_SOCKET))
        control.listen()
        control.setblocking(False)
        front = Front(control, code_digest(CODE))
        async with asyncio.timeout(TIMEOUT_S):
            running = asyncio.create_task(front.run())
            manager = EngineFront(tmp_path, os.getegid())
            await manager.adopt()
            await manager.log_in("1", LOGINS)  # before there is a socket
            sock = str(tmp_path / "engines" / "ci.sock")
            engine = ServedEngine("1", "ci", sock, os.geteuid(), os.getegid())
            await manager.serve(engine)
            assert list(front._engines["1"].logins) == [ME, TEAM]
            await manager.log_in("1", [TEAM])
            await manager.stop()
            manager = EngineFront(tmp_path, os.getegid())
            assert (await manager.adopt())[0] == ["1"]
            await manager.serve(engine)
            assert list(front._engines["1"].logins) == [TEAM]
            await manager.forget("1")
            assert front._logins == {}
            await manager.stop()
            await running
