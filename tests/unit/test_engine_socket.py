"""An engine's socket on the host, over a fake guest: what a client of Docker sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.fake_dockerd import FakeGuest

from warmboot.engine_socket import conversation, exchange, served_engine, socket_file
from warmboot.engine_socket.port_keeper import Ask
from warmboot.engine_socket.served_engine import EngineSocket
from warmboot.model.conventions.engine_front import ServedEngine

TIMEOUT_S = 60.0
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
UPGRADE = (
    b"POST /upgrade HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@dataclass
class Served:
    """An engine with a socket, and a guest behind it."""

    front: EngineSocket
    guest: FakeGuest
    path: Path

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        return Client(reader, writer)

    @property
    def engine(self) -> ServedEngine:
        return self.front.engine


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next one, whole."""
        return (await answers(self.reader, 1))[0]

    async def rest(self) -> bytes:
        return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def answers(
    reader: asyncio.StreamReader, count: int, methods: Sequence[str] = ()
) -> list[tuple[int, bytes]]:
    """``count`` answers on one connection, to requests of these ``methods`` (GET)."""
    http = h11.Connection(h11.CLIENT)
    found = []
    for number in range(count):
        method = methods[number] if methods else "GET"
        http.send(h11.Request(method=method, target="/", headers=[("Host", "d")]))
        http.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(1000))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, body))
        if number + 1 < count:
            http.start_next_cycle()
    return found


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def vmm_process() -> AsyncIterator[asyncio.subprocess.Process]:
    """What stands for a VMM."""
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def no_manager(call: str, /, **given: Any) -> Mapping[str, Any]:
    raise AssertionError(f"the manager is asked to {call}")


@contextlib.asynccontextmanager
async def serving(*, there: bool = True, manager: Ask | None = None) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory(prefix="wb-front-", dir="/tmp") as folder:
        guest = FakeGuest(Path(folder) / "vsock")
        path = Path(folder) / "engines" / "ci.sock"
        wanted = ServedEngine("1", "ci", str(path), os.geteuid(), os.getegid())
        front = EngineSocket(wanted, lambda: None, manager or no_manager)
        async with asyncio.timeout(TIMEOUT_S), guest.served():
            await front.set(replace(wanted, guest=guest.endpoint) if there else wanted)
            try:
                yield Served(front, guest, path)
            finally:
                await front.close()
                assert not path.exists()


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


async def test_a_client_of_http_1_0_is_answered_and_hung_up_on() -> None:
    async with serving() as it:
        client = await it.connect()
        await client.send(b"GET /_ping HTTP/1.0\r\n\r\n")
        answer = await client.rest()
        assert b" 200 " in answer
        assert answer.endswith(b'{"path": "/_ping"}')


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
                    size = cuts[turn % len(cuts)]
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
        while left != it.guest.said.qsize():  # until nothing moves
            left = it.guest.said.qsize()
            await asyncio.sleep(0.2)
        assert left > blocks / 2, "it is not all in our memory"
        assert (await client.rest()).count(b"x") == blocks * len(block)


# -- what the host must know of --------------------------------------------------------------------


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
        sources = ("data", "/var/run/docker.sock", str(it.path), "/proc", "/sys/fs/cgroup")
        binds = [f"{source}:/there" for source in sources]
        volume = {"Type": "volume", "Source": "data", "Target": "/data"}
        docker = {"Type": "bind", "Source": str(it.path), "Target": "/docker.sock"}
        assert (await create(client, Binds=binds, Mounts=[volume, docker]))[0] == 200
        (asked,) = it.guest.asked
        sent = json.loads(asked.body)["HostConfig"]
        # The VM has no file at the socket's path on this machine, and cannot have one everywhere.
        binds[2] = "/var/run/docker.sock:/there"
        assert sent["Binds"] == binds
        assert sent["Mounts"] == [volume, {**docker, "Source": "/var/run/docker.sock"}]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no http at all\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: d\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    ],
    ids=["no http", "no host", "no length", "a megabyte", "a long header"],
)
async def test_what_is_no_request_is_refused_in_dockers_form(sent: bytes, status: int) -> None:
    async with serving() as it:
        client = await it.connect()
        client.writer.write(sent)
        answered, body = await client.answer()
        assert answered == status
        assert json.loads(body)["message"]
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
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await it.front.set(replace(it.engine, guest=it.guest.endpoint))
        assert (await waiting)[0] == 200


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


async def test_why_nobody_is_there_is_said_in_dockers_form() -> None:
    async with serving() as it:
        await it.front.set(replace(it.engine, guest=None, reason="the engine ci is stopped"))
        client = await it.connect()
        await client.send(PING)
        assert await client.answer() == (503, b'{"message": "the engine ci is stopped"}\n')


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
    monkeypatch.setattr(served_engine, "MOST_CONNECTIONS", 8)
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


async def test_the_way_to_a_socket_is_open_whatever_the_umask_is(tmp_path: Path) -> None:
    old = os.umask(0o177)
    try:
        path = tmp_path / "engines" / "ci.sock"
        socket_file.listen_at(path, os.geteuid(), os.getegid()).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_the_socket_is_its_owners() -> None:
    async with serving() as it:
        found = it.path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_uid == os.geteuid()


@pytest.mark.root
async def test_an_engine_is_its_owners_and_no_other_users() -> None:
    owner, other = 64_001, 64_002
    async with serving() as it:
        for folder in (it.path.parent, it.path.parent.parent):
            folder.chmod(0o755)
        await it.front.set(replace(it.engine, uid=owner))
        assert await _connects_as(owner, it.path) == "it does"
        assert await _connects_as(other, it.path) == "PermissionError"


async def _connects_as(uid: int, path: Path) -> str:
    connect = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[2]); print('it does', end='')\n"
        "except OSError as error: print(type(error).__name__, end='')\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", connect, str(uid), str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0].decode()
