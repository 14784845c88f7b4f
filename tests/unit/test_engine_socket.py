"""An engine's socket on the host, over a fake guest: what a client of Docker sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.engine_sockets import (
    PING,
    UPGRADE,
    Client,
    answers,
    serving,
)
from tests.support.eventually import until

from warmboot.engine_socket import conversation, exchange, served_engine

# -- requests --------------------------------------------------------------------------------------


async def test_every_request_of_a_connection_reaches_docker_without_the_token() -> None:
    async with serving() as it:
        client = await it.connect()
        for number in range(3):
            await client.send(b"GET /v1.44/%d HTTP/1.1\r\nHost: docker\r\nX-A: b\r\n\r\n" % number)
            status, body = await client.answer()
            assert (status, json.loads(body)) == (200, {"path": f"/v1.44/{number}"})
        assert [asked.target for asked in it.guest.asked] == ["/v1.44/0", "/v1.44/1", "/v1.44/2"]
        assert it.guest.asked[1].headers == (("Host", "docker"), ("X-A", "b"))
        assert it.guest.connections == 1


async def test_what_nobody_here_needs_to_know_passes_and_the_next_request_is_seen() -> None:
    """Trailers, another protocol that Docker does not switch to, and all that comes at once."""
    chunked = b"HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    upgrade = b"HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: mine/1\r\n"
    requests = (
        b"POST /echo " + chunked + b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
        b"GET /other " + upgrade + b"\r\n",
        b"POST /echo " + upgrade + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        PING,
    )
    async with serving() as it:
        client = await it.connect()
        await client.send(b"".join(requests))
        bodies = [body for _, body in await answers(client.reader, len(requests))]
        assert bodies == [b"abc", b'{"path": "/other"}', b"abc", b'{"path": "/_ping"}']
        first, other, *_ = it.guest.asked
        assert first.trailers == ((b"x-sum", b"7"),)
        assert ("Upgrade", "mine/1") in other.headers


async def test_clients_one_after_the_other_share_a_connection_to_the_guest() -> None:
    async with serving() as it:
        for _ in range(3):
            client = await it.connect()
            await client.send(PING)
            assert (await client.answer())[0] == 200
            client.close()
        assert it.guest.connections == 1


async def test_who_brings_an_authorization_of_his_own_does_not_get_it_to_the_guest() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(PING[:-2] + b"Authorization: Bearer mine\r\n\r\n")
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "target", ["/warmboot/v1/identity", "/%77armboot/v1/hand-over", "http://x/warmboot/v1/health"]
)
async def test_nobody_reaches_the_guests_agent_through_the_socket(target: str) -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(f"POST {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        status, body = await client.answer()
        assert (status, json.loads(body)["message"]) == (404, "page not found")
        assert it.guest.asked == []


async def test_a_client_of_http_1_0_is_answered_and_hung_up_on() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /_ping HTTP/1.0\r\n\r\n")
        answer = await client.rest()
        assert b" 200 " in answer
        assert answer.endswith(b'{"path": "/_ping"}')


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    async with serving() as it:
        client = await it.connect()
        body = b"x" * 20_000
        await client.send(b"POST /echo-chunked HTTP/1.0\r\nContent-Length: 20000\r\n\r\n" + body)
        head, _, answer = (await client.rest()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert answer == body


BODIES = st.one_of(st.none(), st.binary(max_size=300), st.binary(min_size=20_000, max_size=90_000))


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes | None, bytes]:
    """Method, target, body, and how it is written."""
    body = draw(BODIES)
    method = "GET" if body is None else draw(st.sampled_from(["POST", "PUT"]))
    target = draw(st.sampled_from(["/echo", "/echo-chunked", "/v1.44/containers/json"]))
    head = f"{method} {target} HTTP/1.1\r\nHost: d\r\n"
    if body is None:
        return method, target, None, f"{head}\r\n".encode()
    if draw(st.booleans()):
        return method, target, body, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    step = draw(st.integers(1, 30_000))
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(chunk), chunk)
        for chunk in (body[at : at + step] for at in range(0, len(body), step))
    )
    framed = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
    return method, target, body, framed


MOST_PIECES = 500
"""Whole long bodies byte by byte take minutes, and try nothing that short ones do not."""


@settings(max_examples=25, deadline=None)
@given(
    st.lists(requests(), min_size=1, max_size=4),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
)
def test_requests_pass_whole_however_they_are_cut_up(
    sent: list[tuple[str, str, bytes | None, bytes]], cuts: list[int]
) -> None:
    async def run() -> None:
        async with serving() as it:
            client = await it.connect()
            data = b"".join(framed for *_, framed in sent)

            async def write() -> None:
                at, turn = 0, 0
                while at < len(data):
                    size = max(cuts[turn % len(cuts)], len(data) // MOST_PIECES)
                    await client.send(data[at : at + size])
                    await asyncio.sleep(0)
                    at, turn = at + size, turn + 1

            writing = asyncio.create_task(write())
            methods = [method for method, *_ in sent]
            got = await answers(client.reader, len(sent), methods)
            await writing
            client.close()
            assert [(a.method, a.target, a.body) for a in it.guest.asked] == [
                (method, target, body or b"") for method, target, body, _ in sent
            ]
            for (_, target, body, _), (status, answered) in zip(sent, got, strict=True):
                assert status == 200
                if target.startswith("/echo"):
                    assert answered == (body or b"")

    asyncio.run(run())


async def test_a_head_request_has_no_body_and_the_next_one_is_seen() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(PING.replace(b"GET", b"HEAD") + PING)
        assert await answers(client.reader, 2, ["HEAD", "GET"]) == [
            (200, b""),
            (200, b'{"path": "/_ping"}'),
        ]


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [UPGRADE, b"POST /containers/1/attach HTTP/1.1\r\nHost: docker\r\n\r\n"],
    ids=["upgraded", "as of old"],
)
@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=5000).map(bytes.lower), max_size=6),
    st.booleans(),
)
def test_a_stream_passes_both_ways_and_half_closed(
    head: bytes, said: list[bytes], at_once: bool
) -> None:
    async def run() -> None:
        async with serving() as it:
            client = await it.connect()
            if at_once:  # with its head
                await client.send(head + b"".join(said))
            else:
                await client.send(head)
                for data in said:
                    await client.send(data)
                    await asyncio.sleep(0)
            client.writer.write_eof()
            answer, _, stream = (await client.rest()).partition(b"\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200"))
            assert stream == b"hello " + b"".join(said).upper() + b" goodbye"

    asyncio.run(run())


async def test_what_is_said_is_there_at_once() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        for data in (b"one", b"two"):
            it.guest.said.put_nowait(data)
            assert await client.reader.readuntil(data + b"\r\n")
        it.guest.said.put_nowait(None)
        assert await client.reader.readuntil(b"0\r\n\r\n")


async def test_docker_is_told_when_nobody_waits_any_more() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /silent HTTP/1.1\r\nHost: d\r\n\r\n")
        client.close()
        await it.guest.ended.wait()


async def test_a_slow_reader_stops_the_one_who_sends_and_loses_nothing() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /stream HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        block, blocks = b"x" * (128 << 10), 256
        for _ in range(blocks):
            it.guest.said.put_nowait(block)
        it.guest.said.put_nowait(None)
        left = -1
        while left != it.guest.said.qsize():
            left = it.guest.said.qsize()
            await asyncio.sleep(0.2)  # until nothing moves
        assert left > blocks / 2, "it is not all in our memory"
        assert (await client.rest()).count(b"x") == blocks * len(block)


# -- what the host must know of --------------------------------------------------------------------


FOLDER = {"type": "none", "o": "bind", "device": "/home/me/src"}
"""Of a volume."""


async def create(client: Client, **host: object) -> tuple[int, str]:
    body = json.dumps({"Image": "web", "HostConfig": host}).encode()
    head = b"POST /v1.44/containers/create?name=web HTTP/1.1\r\nHost: d\r\n"
    await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status, answer = await client.answer()
    return status, str(json.loads(answer).get("message", ""))


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["/home/me/src:/src:ro"]},
        {"Binds": ["data:/data", "/srv:/srv"]},
        {"Mounts": [{"Type": "bind", "Source": "/home/me/src", "Target": "/src"}]},
        {"Binds": ["/proc/../home:/home"]},
        {"Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": FOLDER}}}]},
    ],
)
async def test_a_folder_of_this_machine_is_refused_in_words(host: dict[str, Any]) -> None:
    async with serving() as it:
        client = await it.connect()
        status, message = await create(client, **host)
        assert status == 400
        assert "cannot be mounted" in message
        assert "volume" in message
        assert it.guest.asked == []


async def test_a_volume_that_stands_for_a_folder_of_this_machine_is_refused_too() -> None:
    async with serving() as it:
        for options, status in ((FOLDER, 400), ({"type": "tmpfs", "device": "tmpfs"}, 200)):
            body = json.dumps({"Name": "src", "Driver": "local", "driveropts": options}).encode()
            head = b"POST /v1.44/volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
            client = await it.connect()
            await client.send(head % len(body) + body)
            answered, said = await client.answer()
            assert answered == status
            assert (b"/home/me/src cannot be mounted" in said) == (status == 400)
            client.close()
        (asked,) = it.guest.asked
        assert asked.body == body


async def test_an_answer_without_an_end_is_not_kept_for_the_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "MOST_HELD_BYTES", 10)
    asked: list[tuple[str, Any]] = []

    async def manager(call: str, /, **given: Any) -> Mapping[str, Any]:
        asked.append((call, given.get("container")))
        return {"reservation": 1, "numbers": [8080]}

    body = json.dumps({"HostConfig": {"PortBindings": {"80/tcp": [{}]}}}).encode()
    head = f"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serving(manager=manager) as it:
        client = await it.connect()
        await client.send(head.encode() + body)
        assert (await client.answer())[0] == 502
        client.close()
    assert asked == [("reserve-ports", None), ("keep-ports", None)], "and given back"


async def test_few_bodies_are_kept_at_a_time_and_none_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_engine, "MOST_BODIES", 1)
    head = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n"
    async with serving() as it:
        slow, other = await it.connect(), await it.connect()
        await slow.send(head + b"{")
        await until(it.front.bodies.locked)
        await other.send(head + b"{}")
        slow.close()
        assert (await other.answer())[0] == 200
        other.close()
        monkeypatch.setattr(conversation, "BODY_TIMEOUT_S", 0.05)
        late = await it.connect()
        await late.send(head + b"{")
        assert (await late.answer())[0] == 408
        late.close()


async def test_volumes_the_vms_own_and_docker_itself_can_be_mounted() -> None:
    async with serving() as it:
        client = await it.connect()
        docker_too = "//var/run/docker.sock"  # so testcontainers on Windows
        sources = ("data", docker_too, str(it.path), "/proc", "/sys/fs/cgroup", f"/.{it.path}")
        binds = [f"{source}:/there" for source in sources]
        volume = {"Type": "volume", "Source": "data", "Target": "/data"}
        docker = {"Type": "bind", "Source": str(it.path), "Target": "/docker.sock"}
        assert (await create(client, Binds=binds, Mounts=[volume, docker]))[0] == 200
        (asked,) = it.guest.asked
        sent = json.loads(asked.body)["HostConfig"]
        # The VM has no file at the socket's path on this machine, and cannot have one everywhere.
        binds[2] = binds[5] = "/var/run/docker.sock:/there"
        assert sent["Binds"] == binds
        assert sent["Mounts"] == [volume, {**docker, "Source": "/var/run/docker.sock"}]
