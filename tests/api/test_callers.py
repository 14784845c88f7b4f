"""Who is at the other end of a connection: real processes of other users, in other places."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.support.eventually import until
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.api.http.listeners import listeners
from warmboot.api.http.server import HttpServer
from warmboot.api.middleware.peers import LoopbackPeers
from warmboot.client import Client
from warmboot.model.container import ContainerState

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

NOBODY, GROUP = 65534, 54321
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
AS_MEMBER = ("setpriv", f"--reuid={NOBODY}", f"--regid={GROUP}", "--clear-groups")
POST = """
body = b'{"image": "busybox", "name": "stolen"}'
post = (b"POST /v1/containers HTTP/1.1\\r\\nHost: localhost\\r\\n"
        b"Content-Type: application/json\\r\\n"
        b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
get = b"GET /v1/containers HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
import os, socket, sys
def connected(port=int(sys.argv[1])):
    return socket.create_connection(("127.0.0.1", port))
def status(connection):
    connection.sendall(get)
    answer = b""
    while b"\\r\\n\\r\\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    lines = head.lower().split(b"\\r\\n")
    (length,) = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    while len(body) < length:
        body += connection.recv(65536)
    return head.split()[1].decode()
"""
WORKER = UUID(int=7)
_V1, _V2 = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")


@dataclass
class Door:
    """A server over fakes, on TCP and on a Unix socket for ``GROUP``."""

    port: int
    socket: Path
    fakes: FakeServices
    statuses: list[int] = field(default_factory=list)
    answered: asyncio.Condition = field(default_factory=asyncio.Condition)
    connections: Callable[[], int] = int

    def url(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"

    async def until_answered(self, count: int) -> list[int]:
        async with asyncio.timeout(60), self.answered:
            await self.answered.wait_for(lambda: len(self.statuses) >= count)
        return self.statuses


def recorded(app: ASGIApp, door: Door) -> ASGIApp:
    """``app``, with the status of every answer kept, whether or not anybody hears it."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                async with door.answered:
                    door.statuses.append(message["status"])
                    door.answered.notify_all()
            await send(message)

        await app(scope, receive, watch if scope["type"] == "http" else send)

    return call


@contextlib.asynccontextmanager
async def opened(
    tokens: frozenset[str] = frozenset(), host: str = "127.0.0.1"
) -> AsyncIterator[Door]:
    with tempfile.TemporaryDirectory(prefix="wb-door-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "manager.sock"
        with listeners(host, 0, lambda _: path, str(GROUP)) as sockets:
            fakes = FakeServices()
            app = create_app(
                fakes.services,
                tokens=tokens,
                worker_of=lambda token: WORKER if token == "worker-token" else None,
            )
            door = Door(sockets[0].getsockname()[1], path, fakes)
            server = HttpServer(recorded(app, door), graceful_shutdown_s=1)
            door.connections = lambda: len(server.held)
            serving = asyncio.create_task(server.serve(sockets))
            try:
                await until(lambda: server.started)  # uvicorn has no event for it
                yield door
            finally:
                server.should_exit = True
                async with asyncio.timeout(60):
                    await serving


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as it:
        yield it


async def run(*words: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == code, out.decode()
    return out.decode()


async def curl(*words: str, by: tuple[str, ...] = ()) -> tuple[int, str]:
    """The status, and the reason if there is one."""
    out = await run(*by, "curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", *words)
    body, _, status = out.rpartition("\n")
    with contextlib.suppress(ValueError):
        return int(status), str(json.loads(body).get("detail", ""))
    return int(status), body


async def python(script: str, door: Door, by: tuple[str, ...] = ()) -> list[str]:
    return (await run(*by, "/usr/bin/python3", "-c", POST + script, str(door.port))).split()


@contextlib.contextmanager
def container_cgroup() -> Iterator[tuple[str, ...]]:
    """A prefix that runs a program in a cgroup like those that Docker makes. Its parent is this
    process's own: an engine of other tests may have its own at this moment."""
    parent = (_V1 if _V1.is_dir() else _V2) / f"warmboot-test-{os.getpid()}"
    folder = parent / ("5a" * 32)
    folder.mkdir(parents=True)
    try:
        yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh")
    finally:
        folder.rmdir()
        parent.rmdir()


async def test_root_on_loopback_needs_no_token(door: Door) -> None:
    assert await curl(door.url("/v1/containers")) == (200, "")
    body = ("-H", "Content-Type: application/json", "-d", '{"image": "busybox"}')
    assert (await curl("-X", "POST", door.url("/v1/containers"), *body))[0] == 201


async def test_another_user_on_loopback_is_refused_with_a_reason(door: Door) -> None:
    status, reason = await curl(door.url("/v1/containers"), by=AS_NOBODY)
    assert (status, reason) == (401, f"the connection belongs to uid {NOBODY}")
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    key = ("-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    session = await curl(door.url("/v1/containers/c/exec"), *upgrade, *key, by=AS_NOBODY)
    assert session[0] == 401


async def test_only_health_checks_and_metrics_are_open_to_all(door: Door) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await curl(door.url(path), by=AS_NOBODY))[0] == 200, path
    for path in ("/openapi.json", "/v1/info", "/v1/events", "/nothing"):
        assert (await curl(door.url(path), by=AS_NOBODY))[0] == 401, path


async def test_where_tokens_are_set_root_needs_none_and_metrics_are_not_open() -> None:
    async with opened(frozenset({"good"})) as door:
        assert (await curl(door.url("/metrics"), by=AS_NOBODY))[0] == 401
        assert (await curl(door.url("/metrics")))[0] == 200
        shown = ("-H", "Authorization: Bearer good")
        assert (await curl(door.url("/v1/info"), *shown, by=AS_NOBODY))[0] == 200
        assert (await curl(door.url("/v1/info"), "-H", "Authorization: Bearer bad"))[0] == 401


@pytest.mark.parametrize("who", [AS_NOBODY, ()], ids=["nobody", "root"])
async def test_who_posts_and_hangs_up_is_not_root(door: Door, who: tuple[str, ...]) -> None:
    script = "for _ in range(20): c = connected(); c.sendall(post); c.close()"
    program = (*who, "/usr/bin/python3", "-c", POST + script, str(door.port))
    # The loop stands still meanwhile: the server sees nobody before all are gone.
    subprocess.run(program, check=True, timeout=60)  # noqa: ASYNC221
    assert set(await door.until_answered(20)) == {401}
    assert door.fakes.containers.rows == {}


async def test_a_peer_counts_while_its_connection_is_established() -> None:
    peers = LoopbackPeers()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        ends = client.getsockname(), server.getsockname()
        accepted, _ = server.accept()
        with accepted:
            assert await peers.why_not_root(*ends) == ""
            client.shutdown(socket.SHUT_WR)
            assert (await peers.why_not_root(*ends)).startswith("the connection is closed")
            client.close()
            assert (await peers.why_not_root(*ends)).startswith("the connection is closed")
            assert (await peers.why_not_root(server.getsockname(), ends[0])) != ""


async def test_a_process_in_a_container_s_cgroup_is_nobody(door: Door) -> None:
    with container_cgroup() as inside:
        status, reason = await curl(door.url("/v1/containers"), by=inside)
        assert status == 401
        assert reason.endswith("is in a container")
        token = ("-H", "Authorization: Bearer worker-token")
        own = f"/v1/workers/{WORKER}"
        # It is let in to a worker that the fakes do not have, and to nothing else.
        assert (await curl(door.url(own), *token, by=inside))[0] == 404
        for path in ("/v1/workers", "/v1/containers", f"/v1/workers/{UUID(int=8)}"):
            assert (await curl(door.url(path), *token, by=inside))[0] == 403, path


@pytest.mark.parametrize("flags", [("-U", "-r"), ("-p", "-f")], ids=["user", "pid"])
async def test_root_of_another_namespace_is_nobody(door: Door, flags: tuple[str, ...]) -> None:
    status, reason = await curl(door.url("/v1/containers"), by=("unshare", *flags))
    assert status == 401
    assert reason.endswith("is in namespaces of its own")


async def test_a_user_s_socket_in_root_s_hands_is_the_user_s(door: Door) -> None:
    handed = f"""
ours, theirs = socket.socketpair()
if os.fork() == 0:
    os.setuid({NOBODY})
    c = connected()
    socket.send_fds(theirs, [b"x"], [c.fileno()])
    os._exit(0)
os.wait()
_, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
print(status(socket.socket(fileno=fd)))
"""
    assert await python(handed, door) == ["401"]


async def test_what_a_container_holds_too_is_not_root_s_until_it_lets_go(door: Door) -> None:
    with container_cgroup() as inside:
        procs = inside[2].split()[3]
        shared = f"""
c = connected()
r, w = os.pipe()
said, say = os.pipe()
pid = os.fork()
if pid == 0:
    open("{procs}", "w").write(str(os.getpid()))
    os.close(w); os.write(say, b"x"); os.read(r, 1); os._exit(0)
os.close(r); os.read(said, 1)
print(status(c))
os.close(w); os.waitpid(pid, 0)
print(status(c))
"""
        assert await python(shared, door) == ["401", "200"]


async def test_a_connection_is_looked_at_again_at_every_request(door: Door) -> None:
    dropping = f"c = connected(); print(status(c)); os.setuid({NOBODY}); print(status(c))"
    assert await python(dropping, door) == ["200", "401"]


async def test_a_mapped_address_is_the_one_that_it_maps(door: Door) -> None:
    mapped = """
c = socket.socket(socket.AF_INET6); c.connect(("::ffff:127.0.0.1", int(sys.argv[1])))
print(status(c))
"""
    assert await python(mapped, door) == ["200"]
    assert await python(mapped, door, AS_NOBODY) == ["401"]


async def test_ipv6_is_looked_at_alike() -> None:
    async with opened(host="::1") as door:
        assert await curl(door.url("/v1/containers", "[::1]")) == (200, "")
        assert (await curl(door.url("/v1/containers", "[::1]"), by=AS_NOBODY))[0] == 401


async def test_a_user_s_own_manager_takes_that_user_for_root_and_no_other() -> None:
    asked = """
import asyncio, os, socket, sys
from warmboot.api.middleware.peers import LoopbackPeers
server, client = socket.create_server(("127.0.0.1", 0)), socket.socket()
if len(sys.argv) > 1:
    os.fchown(client.fileno(), int(sys.argv[1]), -1)
    os.setuid(int(sys.argv[2]))
client.connect(server.getsockname())
ends = client.getsockname(), server.getsockname()
print(asyncio.run(LoopbackPeers().why_not_root(*ends)) or "as root")
"""
    python = (sys.executable, "-c", asked)
    assert await run(*AS_NOBODY, *python) == "as root\n"
    other = str(NOBODY - 1)
    assert await run(*python, other, str(NOBODY)) == f"the connection belongs to uid {other}\n"


async def test_what_a_proxy_passes_on_needs_a_token(door: Door) -> None:
    for header in ("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "Via: 1.1 proxy"):
        status, reason = await curl(door.url("/v1/info"), "-H", header)
        assert (status, reason) == (401, "a proxy has passed this request on"), header


async def test_a_member_of_the_group_comes_in_by_the_socket(door: Door) -> None:
    by_socket = ("--unix-socket", str(door.socket), "http://any-name/v1/containers")
    assert await curl(*by_socket, by=AS_MEMBER) == (200, "")
    assert await curl(*by_socket) == (200, "")


async def test_the_file_system_keeps_out_who_is_no_member(door: Door) -> None:
    by_socket = ("curl", "-s", "--unix-socket", str(door.socket), "http://localhost/v1/info")
    await run(*AS_NOBODY, *by_socket, code=7)
    assert door.statuses == []


async def test_a_token_that_is_shown_counts_on_the_socket_too(door: Door) -> None:
    base = ("--unix-socket", str(door.socket), "http://localhost/v1/containers")
    assert (await curl(*base, "-H", "Authorization: Bearer worker-token"))[0] == 403
    assert (await curl(*base, "-H", "Authorization: Bearer unknown"))[0] == 401


async def test_the_client_uses_the_socket_for_requests_streams_and_sessions(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARMBOOT_URL", raising=False)
    monkeypatch.setenv("MANAGER_SOCKET", str(door.socket))
    async with Client() as client:
        container_id = await client.containers.create(image="busybox", command=["sleep", "9"])
        running = await client.containers.wait(container_id, "running")
        assert running.state == ContainerState.RUNNING
        async with client.events.follow(0) as events:
            assert (await anext(aiter(events))).kind
        async with client.containers.exec(container_id, ["echo", "hi"]) as session:
            assert b"".join([chunk.data async for chunk in session])


REUSED = (
    POST
    + """
connection = connected()
print(connection.getsockname()[1], flush=True)
sys.stdin.readline()
connection.sendall(post + get)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
connection.close()
"""
)


def _bind(root: socket.socket, port: int) -> None:
    """Somebody else's connection, on this busy machine, may have just been given the port."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            root.bind(("127.0.0.1", port))
            return
        time.sleep(0.01)  # blocking: the server must not look meanwhile
    root.bind(("127.0.0.1", port))


async def test_who_is_gone_is_not_taken_for_root_who_has_its_port_now() -> None:
    """All happens before the server looks, since it runs in this very thread."""
    async with opened() as door:
        words = (*AS_NOBODY, sys.executable, "-I", "-c", REUSED, str(door.port))
        with (
            subprocess.Popen(  # noqa: ASYNC220 - that it blocks the server is the point
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process,
            socket.socket() as root,
        ):
            assert process.stdout is not None
            port = int(process.stdout.readline())
            await until(lambda: bool(door.connections()))  # taken by the server, not by us
            process.communicate(b"\n")
            root.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(root, port)
            root.connect(("127.0.0.1", door.port))
            assert (await door.until_answered(1))[0] == 401
        assert not door.fakes.containers.rows
