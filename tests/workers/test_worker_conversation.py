"""What a worker does with its manager: reports, its own pause, and each change exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually
from tests.support.images import python_image
from tests.support.ports import free_port
from tests.support.served import Served, served, worker_settings
from tests.workers.conftest import Start, event_kinds, remove_all, start_on, wait_for_line

import warmboot
from warmboot.client import Client
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

SITE = Path(httpx.__file__).parents[1]
PACKAGES = ("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "typing_extensions.py")
IMAGE = "warmboot-test/session:1"
PYTHON = "/usr/bin/python3"
PAUSES_ITSELF = """
import asyncio
from warmboot.worker import Session

async def main():
    async with Session() as session:
        await session.report("progress", {"done": 1})
        answer = await session.ask_pause()
        print("asked", answer.status_code, flush=True)
        while not session.restores:
            await asyncio.sleep(0.1)
        print("on it goes", session.restores, flush=True)
        await session.report("progress", {"done": 2})
        await asyncio.sleep(3600)

asyncio.run(main())
"""
CHANGES = """
import asyncio
from warmboot.worker import Session
from warmboot.worker.session import RetryPolicy

async def main():
    async with Session(retry=RetryPolicy(attempts=80, first_s=0.1, longest_s=0.3)) as session:
        session.on_restored(lambda away_s: print("restored", flush=True))
        answer = await session.report("change", {"amount": 1})
        replayed = answer.headers.get("Idempotent-Replayed", "false")
        print("done", answer.status_code, replayed, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
async def python(dockerd: PrivateDockerd) -> str:
    extra = (*(SITE / name for name in PACKAGES), Path(warmboot.__file__).parent)
    image = await asyncio.to_thread(python_image, IMAGE, extra)
    async with DockerEngine(dockerd.socket) as engine:
        await engine.load_image(image)
    return IMAGE


async def reports(client: Client, worker_id: str) -> list[dict[str, Any]]:
    events = await client.events.list(0, 1000)
    return [
        dict(event.data)
        for event in events
        if event.kind == "worker.reported" and event.subject_id == worker_id
    ]


async def test_a_worker_asks_for_its_own_pause_and_has_its_answer(
    client: Client, start: Start, python: str
) -> None:
    worker = await start(image=python, command=[PYTHON, "-c", PAUSES_ITSELF])
    assert (await client.workers.wait(worker.id, "paused", 60)).state == "paused"
    await asyncio.sleep(1.5)  # so that it can see that it was away
    await client.workers.resume(worker.id)
    assert await wait_for_line(client, worker.id, lambda line: line.startswith("asked"))
    assert await wait_for_line(client, worker.id, lambda line: line == "on it goes 1")

    async def both() -> bool:
        return len(await reports(client, worker.id)) >= 2

    await eventually(both, "both reports are there")
    assert await reports(client, worker.id) == [
        {"report": "progress", "data": {"done": 1}},
        {"report": "progress", "data": {"done": 2}},
    ]
    assert (await event_kinds(client, worker.id)).count("worker.pausing") == 1
    assert (await client.workers.get(worker.id)).heard_at is not None


class Between:
    """Carries connections to the manager; can keep answers back, and can be gone."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self.keep_answers = True
        self.kept = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, there_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._carry(reader, there_writer), self._answer(there_reader, writer)
            )
        for one in (writer, there_writer):
            one.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.keep_answers:
                self.kept.set()
                continue
            writer.write(data)
            await writer.drain()

    @contextlib.asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for writer in self._open:
                writer.transport.abort()
            self._open.clear()


async def test_a_change_in_flight_at_the_pause_happens_exactly_once(
    dockerd: PrivateDockerd, engine: DockerEngine, python: str, tmp_path: Path
) -> None:
    port = free_port()
    between = Between(free_port(), port)
    settings = worker_settings(
        tmp_path / "s", dockerd.socket, port, worker_url=f"http://127.0.0.1:{between.port}"
    )
    async with served(settings) as it:
        async with between.there():
            worker = await start_on(
                it.client, engine, image=python, command=[PYTHON, "-c", CHANGES]
            )
            async with asyncio.timeout(60):
                await between.kept.wait()
            made = await it.client.workers.create_checkpoint(worker.id, leave_running=False)
            assert made.tcp_connections >= 1
        assert len(await reports(it.client, worker.id)) == 1
        # The server is gone when the worker is back, and comes a little later.
        await asyncio.sleep(1.2)
        await it.client.workers.resume(worker.id)
        await wait_for_line(it.client, worker.id, lambda line: line == "restored")
        await asyncio.sleep(0.5)  # it asks in vain meanwhile
        between.keep_answers = False
        async with between.there():
            done = await wait_for_line(it.client, worker.id, lambda line: line.startswith("done"))
            assert done == "done 201 true"
            assert await reports(it.client, worker.id) == [
                {"report": "change", "data": {"amount": 1}}
            ]
            await remove_all(it.client)


async def test_a_worker_s_token_is_good_for_its_own_routes_only(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(
        tmp_path / "s", dockerd.socket, free_port(), tokens=frozenset({"manager-token"})
    )
    async with served(settings) as it:
        worker = await start_on(it.client, engine, name="one")
        other = await start_on(it.client, engine, name="two")
        description = await engine.description(worker.docker_id or "")
        environment = dict(entry.split("=", 1) for entry in description["Config"]["Env"])
        assert environment["WARMBOOT_WORKER_ID"] == worker.id
        headers = {"Authorization": f"Bearer {environment['WARMBOOT_TOKEN']}"}
        own, foreign = f"/v1/workers/{worker.id}", f"/v1/workers/{other.id}"
        url = environment["WARMBOOT_URL"]
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            allowed = [
                await http.get(own),
                await http.get(f"{own}/checkpoints"),
                await http.post(f"{own}/events", json={"kind": "hello"}),
            ]
            refused = [
                await http.get("/v1/workers"),
                await http.get(foreign),
                await http.post(f"{foreign}/pause"),
                await http.post(f"{foreign}/events", json={"kind": "hello"}),
                await http.delete(own),
                await http.post("/v1/containers", json={"image": "app:1"}),
                await http.get(f"{own}/checkpoints/../../{other.id}"),
            ]
            forged = await http.get(
                own, headers={"Authorization": headers["Authorization"][:-1] + "x"}
            )
            asked = await http.post(f"{own}/pause")
        assert [one.status_code for one in allowed] == [200, 200, 201]
        assert {one.status_code for one in refused} == {403}
        assert forged.status_code == 401
        assert asked.status_code == 202
        assert (await it.client.workers.wait(worker.id, "paused", 60)).state == "paused"
        await remove_all(it.client)


async def test_the_same_key_is_answered_the_same(it: Served, start: Start) -> None:
    worker = await start()
    path, key = f"{it.url}/v1/workers/{worker.id}/checkpoints", {"Idempotency-Key": "k1"}
    async with httpx.AsyncClient(timeout=60) as http:
        first = await http.post(path, json={"name": "cp"}, headers=key)
        again = await http.post(path, json={"name": "cp"}, headers=key)
        other = await http.post(path, json={"name": "dp"}, headers=key)
        same = {"Idempotency-Key": "k2"}
        both = await asyncio.gather(
            *(http.post(path, json={"name": "xx"}, headers=same) for _ in range(2))
        )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert json.loads(again.content) == json.loads(first.content)
    assert other.status_code == 422
    made, meanwhile = sorted(both, key=lambda response: response.status_code)
    assert (made.status_code, meanwhile.status_code) == (201, 409), "one of them is the later one"
    assert meanwhile.headers["retry-after"]


async def test_a_worker_without_its_token_is_nobody(it: Served, start: Start) -> None:
    """It is root with the host's network, and leaves its token out."""
    worker = await start(
        """
        wget -q -O /dev/null "$WARMBOOT_URL/healthz" && echo open
        wget -O /dev/null "$WARMBOOT_URL/v1/workers" 2>&1 | grep HTTP/
        wget -O /dev/null --header "Content-Type: application/json" --post-data \
            '{"image": "x", "name": "stolen"}' "$WARMBOOT_URL/v1/containers" 2>&1 | grep HTTP/
        wget -q -O - --header "Authorization: Bearer $WARMBOOT_TOKEN" \
            "$WARMBOOT_URL/v1/workers/$WARMBOOT_WORKER_ID" | grep -c '"item"'
        echo done; sleep 1000
        """
    )
    await wait_for_line(it.client, worker.id, lambda line: line == "done")
    said = (
        b"".join([chunk async for chunk in it.client.workers.logs(worker.id)]).decode().split("\n")
    )
    refused = "wget: server returned error: HTTP/1.1 401 Unauthorized"
    assert said[:5] == ["open", refused, refused, "1", "done"]
    assert await it.client.containers.list(all_states=True) == []
