"""Server-sent events, followed logs, exec and attach, over a real socket with the real client."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from tests.support.eventually import until
from tests.support.fake_services import FakeServices
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from warmboot.api import streams
from warmboot.client import Client
from warmboot.client.endpoint import Endpoint
from warmboot.client.sessions import open_session
from warmboot.model.errors import Conflict, InvalidRequest, NotFound
from warmboot.model.sessions import LogChunk, Stream


async def read_until(response: httpx.Response, text: str) -> str:
    seen = ""
    async with asyncio.timeout(60):
        async for part in response.aiter_text():
            seen += part
            if text in seen:
                return seen
    raise AssertionError(f"the stream ended without {text!r}: {seen!r}")


async def test_events_are_sent_as_they_happen(url: str, fakes: FakeServices) -> None:
    fakes.events.add("container.old", "c")
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream("GET", "/v1/events", headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = response.aiter_text()
        assert await anext(parts) == ": connected\n\n"
        fakes.events.add("container.running", "c", seconds=1.5)
        received = await asyncio.wait_for(anext(parts), 60)
    lines = received.splitlines()
    assert lines[0] == "id: 2"
    assert lines[1] == "event: container.running"
    assert json.loads(lines[2].removeprefix("data: "))["data"] == {"seconds": 1.5}


async def test_a_cut_stream_goes_on_where_it_was(url: str, fakes: FakeServices) -> None:
    for _ in range(3):
        fakes.events.add("container.stage", "c")
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream("GET", "/v1/events?follow=true", headers={"Last-Event-ID": "1"}) as response,
    ):
        seen = await read_until(response, "id: 3")
    assert "id: 2" in seen
    assert "id: 1\n" not in seen


@pytest.mark.parametrize("query", ["after=1", "cursor=1"])
async def test_a_stream_begins_where_a_list_has_ended_and_has_as_many_as_asked_for(
    url: str, fakes: FakeServices, query: str
) -> None:
    for _ in range(5):
        fakes.events.add("container.stage", "c")
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.get(f"/v1/events?follow=true&limit=2&{query}")
    assert [line for line in answer.text.splitlines() if line.startswith("id: ")] == [
        "id: 2",
        "id: 3",
    ]


async def test_a_quiet_stream_is_kept_alive(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.05)
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream("GET", "/v1/events?follow=true") as response,
    ):
        assert ": keep-alive" in await read_until(response, ": keep-alive")


async def test_followed_logs_come_while_it_runs(url: str, fakes: FakeServices) -> None:
    fakes.containers.may_end.clear()
    async with Client(url) as client:
        container_id = await client.containers.create(image="busybox", command=["ticks", "5"])
        states, text = [], b""
        async for chunk in client.containers.logs(container_id, follow=True):
            states.append((await client.containers.get(container_id)).state)
            text += chunk.data
            fakes.containers.may_end.set()
        assert text == b"".join(b"tick %d\n" % number for number in range(5))
        assert states[0] == "running"


@pytest.mark.parametrize("accept", ["text/plain", streams.MULTIPLEXED])
async def test_short_lines_of_a_log_are_sent_in_few_pieces(
    url: str, fakes: FakeServices, accept: str
) -> None:
    async with Client(url) as client:
        container_id = await client.containers.create(image="busybox", command=["echo", "hi"])
        await client.containers.wait(container_id)
    kinds = (Stream.STDOUT, Stream.STDERR)
    (container,) = fakes.containers.rows.values()
    fakes.containers.output[container.id] = [LogChunk(kinds[n % 2], b"line\n") for n in range(5000)]
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        http.stream(
            "GET", f"/v1/containers/{container_id}/logs", headers={"Accept": accept}
        ) as response,
    ):
        pieces = [piece async for piece in response.aiter_raw()]
    assert b"".join(pieces).count(b"line\n") == 5000
    assert len(pieces) < 50


async def test_a_command_is_run_and_its_streams_are_told_apart(url: str) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
        await client.containers.wait("c", "running")
        async with client.containers.exec("c", ["err", "oh"], environment=["A=1"]) as session:
            chunks = [(chunk.stream, chunk.data) async for chunk in session]
        assert chunks == [("stdout", b"A=1\n"), ("stderr", b"oh\n")]
        assert session.exit_code == 0


async def test_input_reaches_the_command_and_its_end_ends_it(url: str) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
        await client.containers.wait("c", "running")
        async with client.containers.exec("c", ["cat"], stdin=True) as session:
            await session.write(b"\x00binary\xff")
            await session.write_eof()
            assert b"".join([chunk.data async for chunk in session]) == b"\x00binary\xff"


async def test_the_terminals_size_reaches_the_command(url: str, fakes: FakeServices) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
        await client.containers.wait("c", "running")
        command = client.containers.exec("c", ["sh"], tty=True, stdin=True, rows=30, columns=100)
        async with command as session:
            await session.write(b"size\r")
            await session.resize(40, 120)
            await session.write(b"size\r")
            await session.write(b"exit 4\r")
            text = b"".join([chunk.data async for chunk in session])
        assert b"(30, 100)" in text
        assert b"(40, 120)" in text
        assert session.exit_code == 4
    await until(lambda: fakes.containers.sessions[0].closed)


async def test_a_client_that_goes_away_ends_the_session(url: str, fakes: FakeServices) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
        await client.containers.wait("c", "running")
        async with client.containers.exec("c", ["cat"], stdin=True):
            pass
        async with asyncio.timeout(60):
            await fakes.containers.sessions[0].over.wait()


async def test_attach_carries_the_containers_own_process(url: str) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c", command=["cat"])
        await client.containers.wait("c", "running")
        async with client.containers.attach("c") as session:
            await session.write(b"hello")
            await session.write_eof()
            assert b"".join([chunk.data async for chunk in session]) == b"hello"
        assert session.exit_code == 0
        assert (await client.containers.wait("c")).exit_code == 0


async def test_sessions_with_what_is_not_there_or_not_running_are_refused(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(NotFound):
            async with client.containers.exec("nothing", ["true"]):
                pass
        with pytest.raises(NotFound):
            async with client.containers.attach("nothing"):
                pass
        await client.containers.create(image="busybox", name="c", command=["exit", "0"])
        await client.containers.wait("c")
        with pytest.raises(Conflict, match="not running"):
            async with client.containers.exec("c", ["true"]):
                pass
        with pytest.raises(Conflict):
            async with client.containers.attach("c"):
                pass


@pytest.mark.parametrize(
    "frame",
    [
        "no json", "[]", "{}", '{"type": "start", "command": []}', b"\x00data",
        '{"type": "start", "command": ["x"], "surprise": 1}', "[" * 50_000,
        '{"type": "start", "command": ["x"], "rows": -1, "columns": 1}',
    ],
)  # fmt: skip
async def test_a_strange_first_frame_is_answered_with_an_error(
    url: str, frame: str | bytes
) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
    address = url.replace("http", "ws") + "/v1/containers/c/exec"
    async with connect(address, proxy=None) as socket:
        await socket.send(frame)
        told = json.loads(await asyncio.wait_for(socket.recv(), 60))
        assert (told["type"], told["code"]) == ("error", InvalidRequest.code)
        await asyncio.wait_for(socket.wait_closed(), 60)
        assert socket.close_code == 1007


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("user", "u" * 257, "it must have at most 256 characters, and has 257"),
        ("rows", -1, "it must be 1 or more"),
        ("surprise", 1, "there is no such field"),
    ],
)
async def test_a_first_frame_is_refused_in_the_words_of_any_request(
    url: str, field: str, value: object, why: str
) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
    start = {"command": ["true"], field: value}
    with pytest.raises(InvalidRequest) as refused:
        async with open_session(Endpoint.of(url), "/v1/containers/c/exec", None, start):
            pass
    assert (refused.value.brief, refused.value.details) == (f"{field} is not valid", why)
    assert refused.value.fields == (field,)


async def test_a_session_at_a_path_that_is_not_valid_is_refused_with_a_problem(url: str) -> None:
    for what in ("exec", "attach"):
        address = url.replace("http", "ws") + f"/v1/containers/{'n' * 100}/{what}"
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, proxy=None)
        answer = refused.value.response
        assert answer.status_code == 422
        assert json.loads(answer.body or b"")["title"] == "ref is not valid"


@pytest.mark.parametrize(
    "frame", ["no json", b"", b"\x07x", '{"type": "dance"}', '{"type":"resize"}']
)
async def test_a_strange_later_frame_ends_the_session(
    url: str, fakes: FakeServices, frame: str | bytes
) -> None:
    async with Client(url) as client:
        await client.containers.create(image="busybox", name="c")
        await client.containers.wait("c", "running")
    address = url.replace("http", "ws") + "/v1/containers/c/exec"
    async with connect(address, proxy=None) as socket:
        await socket.send('{"type": "start", "command": ["cat"], "stdin": true}')
        assert json.loads(await asyncio.wait_for(socket.recv(), 60)) == {"type": "started"}
        await socket.send(frame)
        told = json.loads(await asyncio.wait_for(socket.recv(), 60))
        assert told["code"] == InvalidRequest.code
    await until(lambda: fakes.containers.sessions[0].closed)
