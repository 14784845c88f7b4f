"""One Docker client for the host's engine and those in guests: the same cause is the same error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.docker_ways import GUEST, HOST, TOKEN, WAYS, client_by

from warmboot.docker.client import DockerClient
from warmboot.docker.pull import PullTimeout
from warmboot.docker.sessions import AttachedSession
from warmboot.model.errors import EngineUnavailable, GuestUnreachable, WarmbootError
from warmboot.model.sessions import ExecSpec, LogChunk, Stream

APP = "registry.example/app:1"
GENEROUS_S = 60.0
FRAMES = b"".join(
    struct.pack(">BxxxL", number, len(data)) + data for number, data in [(1, b"out"), (2, b"err")]
)
CHUNKS = [LogChunk(Stream.STDOUT, b"out"), LogChunk(Stream.STDERR, b"err")]

Act = Callable[[DockerClient], Awaitable[object]]


@dataclass
class FakeDocker:
    """Answers a request by the end of its path; what it has no answer for it leaves waiting.

    An answer of 101 takes over the connection: its text is written, and then what comes is echoed.
    """

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def says(self, path: str, body: object, status: int = 200) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = (status, text)

    def refuses(self, path: str, status: int, message: str) -> None:
        self.says(path, {"message": message}, status)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                known = dict(one.lower().split(": ", 1) for one in fields if one)
                await reader.readexactly(int(known.get("content-length", 0)))
                method, path, _ = first.split()
                self.asked.append(f"{method} {path}")
                self.tokens.add(known.get("authorization", ""))
                await self._answer(path.partition("?")[0], reader, writer)
        writer.close()

    async def _answer(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        found = next((a for end, a in self.answers.items() if path.endswith(end)), None)
        if found is None:
            await reader.read()
            return
        status, text = found
        if status == 101:
            writer.write(
                b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + text
            )
            while data := await reader.read(100):
                writer.write(struct.pack(">BxxxL", 1, len(data)) + data)
            return
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()


@contextlib.asynccontextmanager
async def listening(folder: Path, fake: FakeDocker) -> AsyncIterator[Path]:
    path = folder / "docker.sock"
    server = await asyncio.start_unix_server(fake.serve, path)
    try:
        yield path
    finally:
        server.close()


async def told(client: DockerClient, act: Act) -> WarmbootError:
    async with asyncio.timeout(GENEROUS_S):
        with pytest.raises(WarmbootError) as caught:
            await act(client)
    return caught.value


async def told_by_each(folder: Path, fake: FakeDocker, act: Act) -> Mapping[str, WarmbootError]:
    fake.says("/_ping", {})
    errors = {}
    async with listening(folder, fake) as socket:
        for way in WAYS:
            async with client_by(way, socket) as client:
                errors[way] = await told(client, act)
    return errors


async def pull(client: DockerClient) -> None:
    await client.pull(APP)


async def load(client: DockerClient) -> None:
    await client.load_image(b"tar")


async def create(client: DockerClient) -> None:
    await client.create("web", {"Image": APP})


async def inspect(client: DockerClient) -> None:
    await client.inspect("web")


async def start(client: DockerClient) -> None:
    await client.start("web")


async def kill(client: DockerClient) -> None:
    await client.kill("web", "SIGHUP")


async def remove(client: DockerClient) -> None:
    await client.remove("web")


async def run(client: DockerClient) -> None:
    await client.exec("web", ExecSpec(("true",)))


@pytest.mark.parametrize(
    ("status", "ended", "fails"),
    [
        (200, {"StatusCode": 137}, False),
        (404, {"message": "No such container: web"}, False),
        (200, {"StatusCode": 137, "Error": {"Message": "device or resource busy"}}, True),
    ],
    ids=["it ends", "it has ended", "it fails"],
)
async def test_a_removal_that_is_in_progress_is_waited_for(
    tmp_path: Path, status: int, ended: object, fails: bool
) -> None:
    fake = FakeDocker()
    fake.refuses("/containers/web", 409, "removal of container web is already in progress")
    fake.says("/wait", ended, status)
    async with listening(tmp_path, fake) as socket, client_by(HOST, socket) as client:
        if fails:
            assert (await told(client, remove)).details == "device or resource busy"
        else:
            await client.remove("web")
    assert fake.asked[-1].endswith("/containers/web/wait?condition=removed")


# -- the same cause is the same error --------------------------------------------------------------

UNREACHABLE = (
    'Get "https://registry.example/v2/": dial tcp: lookup registry.example: no such host',
    'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
    'Get "https://registry.example/v2/": x509: certificate signed by unknown authority',
    "received unexpected HTTP status: 503 Service Unavailable",
)
NOT_FOR_US = (
    "manifest for registry.example/app:1 not found: manifest unknown: manifest unknown",
    "pull access denied for app, repository does not exist or may require 'docker login'",
    "errors:\ndenied: requested access to the resource is denied",
    "unauthorized: authentication required",
    'Head "https://registry.example/v2/app/manifests/1": no basic auth credentials',
    "no matching manifest for linux/amd64 in the manifest list entries",
    "invalid reference format: repository name must be lowercase",
)


@pytest.mark.parametrize("streamed", [False, True], ids=["as its status", "in its stream"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        *(("registry-unavailable", message) for message in UNREACHABLE),
        *(("image-not-found", message) for message in NOT_FOR_US),
    ],
)
async def test_a_pull_that_fails_is_told_alike_by_every_engine(
    tmp_path: Path, code: str, message: str, streamed: bool
) -> None:
    fake = FakeDocker()
    if streamed:
        lines = [{"status": "Pulling from app"}, {"errorDetail": {}, "error": message}]
        fake.says("/images/create", b"".join(json.dumps(one).encode() + b"\r\n" for one in lines))
    else:
        fake.refuses("/images/create", 404 if code == "image-not-found" else 500, message)
    errors = await told_by_each(tmp_path, fake, pull)
    assert errors[HOST].as_dict() == errors[GUEST].as_dict()
    assert (errors[HOST].code, errors[HOST].details) == (code, message)
    assert errors[HOST].resolution


@pytest.mark.parametrize(
    ("act", "path", "status", "message", "code"),
    [
        (create, "/create", 404, f"No such image: {APP}", "image-not-found"),
        (create, "/create", 409, 'The container name "/web" is already in use', "name-taken"),
        (create, "/create", 400, "invalid port", "container-error"),
        (inspect, "/json", 404, "No such container: web", "not-found"),
        (kill, "/kill", 409, "container web is not running", "conflict"),
        (
            start,
            "/start",
            400,
            'exec: "nope": executable file not found in $PATH: unknown',
            "command-not-found",
        ),
        (start, "/start", 400, 'exec: "/etc": permission denied', "command-not-executable"),
        (start, "/start", 500, "boom", "container-error"),
        (run, "/exec", 409, "Container web is not running", "container-error"),
        (load, "/load", 500, "unexpected EOF", "container-error"),
    ],
)
async def test_a_refusal_is_told_alike_by_every_engine(
    tmp_path: Path, act: Act, path: str, status: int, message: str, code: str
) -> None:
    fake = FakeDocker()
    fake.refuses(path, status, message)
    errors = await told_by_each(tmp_path, fake, act)
    assert errors[HOST].as_dict() == errors[GUEST].as_dict()
    assert (errors[HOST].code, errors[HOST].details) == (code, message)


@pytest.mark.parametrize(("act", "path"), [(pull, "/images/create"), (load, "/load")])
async def test_a_full_disk_is_told_with_whose_it_is(tmp_path: Path, act: Act, path: str) -> None:
    fake, message = FakeDocker(), "write /layer.tar: no space left on device"
    fake.says(path, {"error": message})
    errors = await told_by_each(tmp_path, fake, act)
    assert {error.code for error in errors.values()} == {"disk-full"}
    assert {error.details for error in errors.values()} == {message}
    assert "the Docker engine" in errors[HOST].brief
    assert "delete" in errors[HOST].resolution
    assert "the VM's disk" in errors[GUEST].brief
    assert "smaller" in errors[GUEST].resolution


# -- no answer -------------------------------------------------------------------------------------

UNANSWERED = {HOST: EngineUnavailable, GUEST: GuestUnreachable}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("act", [pull, inspect, run])
async def test_an_engine_that_says_nothing_is_told_as_such(
    tmp_path: Path, way: str, act: Act
) -> None:
    async def with_patience(client: DockerClient) -> None:
        await (client.pull(APP, timeout=PullTimeout(0.1)) if act is pull else act(client))

    async with (
        listening(tmp_path, FakeDocker()) as socket,
        client_by(way, socket, answer_timeout_s=0.1) as client,
    ):
        error = await told(client, with_patience)
    assert isinstance(error, UNANSWERED[way])
    assert "no answer came in time" in error.details
    assert error.resolution


@pytest.mark.parametrize("way", WAYS)
async def test_a_registry_that_says_nothing_is_told_apart_from_its_engine(
    tmp_path: Path, way: str
) -> None:
    fake = FakeDocker()
    fake.says("/_ping", {})
    async with listening(tmp_path, fake) as socket, client_by(way, socket) as client:
        error = await told(client, lambda docker: docker.pull(APP, timeout=PullTimeout(0.1)))
    assert error.code == "registry-unavailable"
    assert "said nothing for 0.1 s" in error.details


@pytest.mark.parametrize("way", WAYS)
async def test_an_engine_that_is_gone_is_told_without_words_of_a_library(
    tmp_path: Path, way: str
) -> None:
    async with client_by(way, tmp_path / "none.sock") as client:
        error = await told(client, inspect)
    assert isinstance(error, UNANSWERED[way])
    for word in ("docker:80", "ssl", "Errno", "Error("):
        assert word not in str(error)
    assert error.details.startswith("asking for the container's state: ")
    assert way == GUEST or error.details.endswith("no connection (no such file or directory)")
    assert ("none.sock" if way == HOST else "vm-1") in error.brief


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_was_closed_opens_no_connection(tmp_path: Path, way: str) -> None:
    fake = FakeDocker()
    fake.says("/_ping", {})
    async with listening(tmp_path, fake) as socket, client_by(way, socket) as client:
        await client.ping()
        await client.close()
        for act in (inspect, run, pull):
            assert isinstance(await told(client, act), UNANSWERED[way])
    assert len(fake.asked) == 1


# -- what is asked and answered --------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_what_an_archive_had_is_told(tmp_path: Path, way: str) -> None:
    fake = FakeDocker()
    lines = [{"stream": "Loaded image: app:1\n"}, {"stream": "Loaded image ID: sha256:7\n"}]
    fake.says("/images/load", b"".join(json.dumps(one).encode() + b"\n" for one in lines))
    async with listening(tmp_path, fake) as socket, client_by(way, socket) as client:
        assert await client.load_image(b"tar") == ["app:1", "sha256:7"]
    assert fake.tokens == ({""} if way == HOST else {f"bearer {TOKEN}"})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("reference", "asked"),
    [
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("app:7", "app:7"),
        ("app@sha256:7", "app@sha256:7"),
    ],
)
async def test_an_image_without_a_tag_is_the_latest(
    tmp_path: Path, way: str, reference: str, asked: str
) -> None:
    fake = FakeDocker()
    fake.says("/images/create", {"status": "Downloaded"})
    async with listening(tmp_path, fake) as socket, client_by(way, socket) as client:
        await client.pull(reference)
    assert fake.asked == [f"POST /v1.44/images/create?fromImage={asked}"]


@pytest.mark.parametrize("way", WAYS)
async def test_output_comes_by_its_streams(tmp_path: Path, way: str) -> None:
    fake = FakeDocker()
    fake.says("/logs", FRAMES)
    async with listening(tmp_path, fake) as socket, client_by(way, socket) as client:
        chunks = [chunk async for chunk in client.output("web", tty=False, tail=5)]
    assert chunks == CHUNKS
    assert "tail=5" in fake.asked[0]


@pytest.mark.parametrize("way", WAYS)
async def test_a_command_is_spoken_with(tmp_path: Path, way: str) -> None:
    fake = FakeDocker()
    fake.says("/containers/web/exec", {"Id": "e1"})
    fake.says("/exec/e1/start", FRAMES, 101)
    fake.says("/exec/e1/json", {"ExitCode": 7})
    fake.refuses("/exec/e1/resize", 409, "it has just ended")
    async with (
        asyncio.timeout(GENEROUS_S),
        listening(tmp_path, fake) as socket,
        client_by(way, socket) as client,
    ):
        session = await client.exec("web", ExecSpec(("cat",), stdin=True))
        assert isinstance(session, AttachedSession)
        await session.write(b"hello")
        await session.resize(24, 80)
        await session.write_eof()
        assert [chunk async for chunk in session] == [*CHUNKS, LogChunk(Stream.STDOUT, b"hello")]
        assert await session.exit_code() == 7
        await session.close()
