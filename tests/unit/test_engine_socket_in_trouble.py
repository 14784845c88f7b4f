"""An engine's socket on the host, over a fake guest: what goes wrong, or is too much."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest
from tests.support.engine_sockets import (
    PING,
    UPGRADE,
    Served,
    answers,
    serving,
    vmm_process,
)
from tests.support.eventually import until

from warmboot.engine_socket import conversation, served_engine
from warmboot.engine_socket.docker_form import last_words
from warmboot.engine_socket.listeners import connected


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no http at all\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: many\r\n\r\n", 400),
        (
            b"POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: d\r\n\r\n",
            400,
        ),
        (b"GET /_ping HTTP/2.0\r\nHost: d\r\n\r\n", 505),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: d\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: d\r\nX: a\0b\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
    ids=[
        *("no http", "no host", "no length", "two lengths", "2.0", "a megabyte", "a long header"),
        *("no text", "another encoding"),
    ],
)
async def test_what_is_no_request_is_refused_in_dockers_form(sent: bytes, status: int) -> None:
    async with serving() as it:
        client = await it.connect()
        client.writer.write(sent)
        answered, body = await client.answer()
        assert answered == status
        message = json.loads(body)["message"]
        assert message
        assert "bytearray" not in message
        assert await client.rest() == b""
        assert it.guest.asked == []


async def test_half_a_head_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "HEAD_TIMEOUT_S", 0.05)
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /_ping")
        status, body = await client.answer()
        assert (status, "too long" in json.loads(body)["message"]) == (408, True)


async def test_an_engine_that_is_created_is_waited_for() -> None:
    async with serving(there=False) as it:
        client = await it.connect()
        await client.send(PING)
        waiting = asyncio.create_task(client.answer())
        await asyncio.sleep(0.05)  # it would be refused by now
        assert not waiting.done()
        await it.front.set(replace(it.engine, guest=it.guest.endpoint))
        assert (await waiting)[0] == 200


async def test_a_vm_is_connected_to_before_its_docker_answers() -> None:
    async with serving(there=False) as it:
        client = await it.connect()
        await client.send(PING)
        booting = replace(it.engine, guest=it.guest.endpoint, answers=False)
        for _ in range(2):
            await it.front.set(booting)
        await until(lambda: it.guest.connections == 1)
        assert it.guest.asked == []
        await it.front.set(replace(booting, answers=True))
        assert (await client.answer())[0] == 200
        assert it.guest.connections == 1


async def test_a_vm_that_ends_before_its_docker_answers_may_be_followed_by_another() -> None:
    async with vmm_process() as vmm, serving(there=False) as it:
        client = await it.connect()
        await client.send(PING)
        it.guest.pid = vmm.pid
        await it.front.set(replace(it.engine, guest=it.guest.endpoint, answers=False))
        await until(lambda: it.guest.connections == 1)
        vmm.kill()
        await until(lambda: it.guest.open_connections == 0)
        assert not it.front.asleep, "another one is waited for"
        it.guest.pid = os.getpid()
        await it.front.set(replace(it.engine, guest=it.guest.endpoint, answers=True))
        assert (await client.answer())[0] == 200


async def test_a_docker_with_something_of_ours_in_it_only_greets() -> None:
    async with serving(there=False) as it:
        mixed = replace(it.engine, guest=it.guest.endpoint, handed_over=False)
        await it.front.set(mixed)
        greeting, looking = await it.connect(), await it.connect()
        await looking.send(b"GET /v1.44/containers/json HTTP/1.1\r\nHost: d\r\n\r\n")
        for path in (b"/_ping", b"/v1.44/_ping", b"/v1.44/version"):
            await greeting.send(PING.replace(b"/_ping", path))
            assert (await greeting.answer())[0] == 200
        assert "/v1.44/containers/json" not in [asked.target for asked in it.guest.asked]
        await it.front.set(replace(mixed, handed_over=True))
        assert (await looking.answer())[0] == 200


async def greeting(it: Served) -> asyncio.Task[None]:
    """Ends when all are greeted; somebody is to be."""
    while True:
        greeted = asyncio.create_task(it.front.greeted())
        await asyncio.wait({greeted}, timeout=0.01)
        if not greeted.done():
            return greeted


async def test_those_who_wait_for_a_greeting_are_greeted_first() -> None:
    async with serving(there=False) as it:
        asking, looking = await it.connect(), await it.connect()
        await asking.send(PING)
        await looking.send(b"GET /containers/json HTTP/1.1\r\nHost: d\r\n\r\n")
        greeted = await greeting(it)
        await it.front.set(replace(it.engine, guest=it.guest.endpoint, handed_over=False))
        await greeted
        assert (await asking.answer())[0] == 200
        assert [asked.target for asked in it.guest.asked] == ["/_ping"], "the other one waits on"


async def test_who_does_not_let_himself_be_greeted_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_engine, "GREETED_TIMEOUT_S", 0.05)
    async with serving(there=False) as it:
        await (await it.connect()).send(PING)
        await (await greeting(it))


async def test_why_nobody_is_there_is_said_in_dockers_form() -> None:
    async with serving() as it:
        await it.front.set(replace(it.engine, guest=None, reason="the engine ci is stopped"))
        client = await it.connect()
        await client.send(PING)
        assert await client.answer() == (503, b'{"message": "the engine ci is stopped"}\n')


@pytest.mark.parametrize("there", [True, False], ids=["runs", "is-being-created"])
async def test_who_waits_for_an_engine_that_is_removed_is_told(there: bool) -> None:
    async with serving(there=there) as it:
        client, silent = await it.connect(), await it.connect()
        await client.send(b"GET /silent HTTP/1.1\r\nHost: d\r\n\r\n")
        talking = it.front._clients._conversations
        await until(lambda: any(one.silent_since_s is None for one in talking))
        await until(lambda: bool(it.guest.asked) or not there)
        closing = asyncio.create_task(it.front.close())
        status, body = await client.answer()
        assert status in (502, 503)
        assert "the engine ci was removed" in json.loads(body)["message"]
        assert await silent.rest() == b""
        client.close()
        await closing
        assert not it.front.busy


async def test_a_front_that_is_retired_answers_what_it_is_asked_at_once_and_nothing_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "FIRST_WORDS_TIMEOUT_S", 3.0)
    async with serving() as it:
        kept, silent = await it.connect(), await it.connect()
        await kept.send(PING)
        await kept.answer()
        await it.front.stop_listening()
        await kept.send(PING + PING)
        assert [status for status, _ in await answers(kept.reader, 2)] == [200, 200]
        assert await kept.rest() == b""
        assert await silent.rest() == b""
        await until(lambda: not it.front.busy)


async def test_who_does_not_take_its_last_words_keeps_no_engine_from_being_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "LAST_WORDS_TIMEOUT_S", 0.05)
    monkeypatch.setattr(conversation, "LINGER_S", 600.0)
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /silent HTTP/1.1\r\nHost: d\r\n\r\n")
        await until(lambda: bool(it.guest.asked))
        async with asyncio.timeout(50):
            await it.front.close()  # the client neither reads nor hangs up


async def test_a_docker_that_hangs_up_without_an_answer_is_told() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"POST /hang-up HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\n\r\nx")
        status, body = await client.answer()
        assert (status, "no answer" in json.loads(body)["message"]) == (502, True)


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nobody_a_request() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(PING)
        await client.answer()
        it.guest.hang_up()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        assert it.guest.connections == 2


@pytest.mark.parametrize(
    ("kind", "head", "last"),
    [
        (b"application/json", b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n", b'"error": "the VM'),
        (b"", UPGRADE, b"\x02\x00\x00\x00"),
    ],
    ids=["progress", "attached"],
)
async def test_a_vm_that_dies_ends_its_streams_with_a_word(
    kind: bytes, head: bytes, last: bytes
) -> None:
    async with vmm_process() as vmm, serving(there=False) as it:
        it.guest.pid, it.guest.kind = vmm.pid, kind
        await it.front.set(replace(it.engine, guest=it.guest.endpoint))
        client, waiting = await it.connect(), await it.connect()
        await client.send(head)
        await client.reader.readuntil(b"\r\n\r\n")
        await waiting.send(b"GET /silent HTTP/1.1\r\nHost: d\r\n\r\n")
        await until(lambda: any(asked.target == "/silent" for asked in it.guest.asked))
        vmm.kill()
        rest = await client.rest()
        assert last in rest
        assert b"the VM of the engine ci has ended" in rest
        status, body = await waiting.answer()
        assert status == 502
        assert "the VM of the engine ci has ended" in json.loads(body)["message"]
        late = await it.connect()
        await late.send(PING)
        assert (await late.answer())[0] == 503


def test_a_stream_that_breaks_off_says_why_in_the_form_of_what_was_asked() -> None:
    def said(path: bytes) -> bytes:
        return last_words("application/json", "it is gone", path)

    # "docker wait" prints a StatusCode, and exits with 0.
    assert said(b"/v1.45/containers/c/wait?condition=removed") == b"it is gone"
    assert json.loads(said(b"/v1.45/images/create?fromImage=x"))["error"] == "it is gone"
    assert said(b"/events") == said(b"/v1.45/containers/c/stats") == b"", "no event of ours"
    assert last_words("application/x-tar", "it is gone", b"/containers/c/export") == b""


async def test_a_stream_that_breaks_off_is_not_taken_for_whole() -> None:
    async with vmm_process() as vmm, serving(there=False) as it:
        it.guest.pid, it.guest.kind = vmm.pid, b"application/x-tar"
        await it.front.set(replace(it.engine, guest=it.guest.endpoint))
        client = await it.connect()
        await client.send(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        it.guest.said.put_nowait(b"a part")
        await client.reader.readuntil(b"a part\r\n")
        vmm.kill()
        assert await client.rest() == b"", "no last chunk"


async def test_a_client_that_gives_up_its_body_keeps_nobody_waiting() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 1000\r\n\r\nx")
        await until(lambda: it.guest.connections == 1)
        client.close()
        await until(lambda: not it.front.busy)
        assert it.guest.asked == []


async def test_silent_connections_make_room_for_those_who_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "MOST_CONNECTIONS", 8)
    async with serving() as it:
        silent = [await it.connect() for _ in range(20)]
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        assert await silent[0].rest() == b""
        await silent[-1].send(PING)
        assert (await silent[-1].answer())[0] == 200


async def test_five_hundred_talk_at_once_beside_five_hundred_that_say_nothing() -> None:
    async with serving() as it:
        silent = [await it.connect() for _ in range(500)]

        async def ask() -> int:
            client = await it.connect()
            await client.send(b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n\r\nhello")
            status, _ = await client.answer()
            client.close()
            return status

        assert set(await asyncio.gather(*(ask() for _ in range(500)))) == {200}
        for one in silent:
            one.close()
