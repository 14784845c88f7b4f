"""What an engine's Docker has from its snapshot is told as the engine's own."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.engine_sockets import Client, Served, serving

from warmboot.engine_socket.engine_identity import OURS
from warmboot.guest.docker import WARM_UP_IMAGE
from warmboot.guest.sandbox import NAME as SANDBOX

IMAGE, USERS = "sha256:0f", "sha256:aa"
S = 1_000_000_000


def event(at_ns: int, kind: str, action: str, actor: str, **about: str) -> dict[str, Any]:
    told = {"ID": actor, "Attributes": about}
    return {"Type": kind, "Action": action, "Actor": told, "timeNano": at_ns}


SNAPSHOTS = [
    event(10 * S, "image", "load", IMAGE, name=IMAGE),
    event(11 * S, "container", "create", "c1", image=WARM_UP_IMAGE, name=SANDBOX),
    event(12 * S, "container", "start", "c1", image=WARM_UP_IMAGE, name=SANDBOX),
    event(50 * S, "container", "destroy", "c1", image=WARM_UP_IMAGE, name=SANDBOX),
    event(51 * S, "image", "untag", IMAGE, name=IMAGE),
    event(51 * S + 7, "image", "delete", IMAGE, name=IMAGE),
]
USERS_OWN = [
    event(52 * S, "image", "load", USERS, name=USERS),
    event(53 * S, "daemon", "reload", "d", labels='["warmboot.engine=ci"]'),
    event(54 * S, "container", "create", "c2", image="redis:7", name="store"),
    event(55 * S, "image", "untag", USERS, name=USERS),
]


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in events)


async def asked(served: Served, target: str) -> dict[str, str]:
    """The parameters with which dockerd is asked, when a client asks for ``target``."""
    client = await served.connect()
    try:
        await get(client, target)
        path, query = served.guest.asked[-1].target.partition("?")[::2]
        assert path == urlsplit(target).path
        return {name: value for name, (value,) in parse_qs(query).items()}
    finally:
        client.close()


async def get(client: Client, target: str) -> bytes:
    await client.send(f"GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    status, body = await client.answer()
    assert status == 200
    return body


def test_what_the_guest_agent_removes_is_what_is_not_told() -> None:
    assert (SANDBOX, WARM_UP_IMAGE) == OURS


@pytest.mark.parametrize("target", ["/info", "/v1.45/info"])
async def test_docker_info_has_the_engines_own_id_and_labels(target: str) -> None:
    of_all = {"ID": "of-all", "Name": "é" * 4000, "Labels": ["warmboot.engine=its-source"]}
    async with serving() as served:
        served.guest.told["/info"] = json.dumps(of_all).encode()
        client = await served.connect()
        for _ in range(2):  # on the same connection: what is said has its proper length
            found = json.loads(await get(client, target))
            own = {"ID": served.engine.id, "Labels": ["warmboot.engine=ci"]}
            assert found == {**of_all, **own}
        client.close()


@pytest.mark.parametrize("said", [b"[]", b"not JSON", b'{"Name": "x"}', b"[" * 100_000])
async def test_an_info_that_no_docker_gives_passes_as_it_is(said: bytes) -> None:
    async with serving() as served:
        served.guest.told["/info"] = said
        client = await served.connect()
        assert await get(client, "/info") == said
        client.close()


async def test_past_events_begin_after_the_last_that_is_ours() -> None:
    async with serving() as served:
        served.guest.told["/events"] = lines(*SNAPSHOTS, *USERS_OWN)
        found = await asked(served, "/v1.45/events?since=0&filters=%7B%22type%22%3A%5B%5D%7D")
        assert found == {"since": "51.000000008", "filters": '{"type":[]}'}
        assert (await asked(served, "/events?since=51.5&until=60"))["since"] == "51.5"
        assert (await asked(served, "/events?since=20&until=60"))["since"] == "51.000000008"


async def test_an_end_before_the_hand_over_is_still_not_before_the_beginning() -> None:
    async with serving() as served:
        served.guest.told["/events"] = lines(*SNAPSHOTS)
        found = await asked(served, "/events?since=0&until=40")
        assert found == {"since": "40.000000000", "until": "40"}


async def test_without_something_of_ours_the_past_is_the_users() -> None:
    async with serving() as served:
        for told in (lines(*USERS_OWN), b"", b'7\n[]\n{"Actor": 3}\n{"Type": "image"}\n'):
            served.guest.told["/events"] = told
            assert await asked(served, "/events?since=0") == {"since": "0"}


@pytest.mark.parametrize("query", ["", "?until=70", "?since=yesterday", "?since=-1"])
async def test_who_asks_for_no_moment_of_the_past_is_passed_on_untouched(query: str) -> None:
    async with serving() as served:
        client = await served.connect()
        await get(client, f"/events{query}")
        assert [one.target for one in served.guest.asked] == [f"/events{query}"]
        client.close()
