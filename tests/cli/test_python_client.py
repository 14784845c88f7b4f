"""The client's calls that do several steps at once, its fixtures for pytest, and its how-to."""

from __future__ import annotations

import ast
import inspect
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.cli.conftest import ROOT, Served
from tests.support.fake_sessions import FakeSession

from warmboot.api.schemas.container_requests import ContainerIn
from warmboot.api.schemas.engine_schemas import EngineIn
from warmboot.api.schemas.requests import StartIn
from warmboot.api.schemas.worker_requests import WorkerIn
from warmboot.client import Client, SyncClient
from warmboot.client.containers import Containers
from warmboot.client.containers.fields import ContainerFields, ExecFields
from warmboot.client.engines import Engines
from warmboot.client.engines.fields import EngineFields
from warmboot.client.workers import Workers
from warmboot.model.errors import CommandNotFound, Conflict, Unavailable

PAGE = ROOT / "docs" / "how-to" / "python-client.md"
Described = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("method", "known"),
    [
        (Containers.create, {*ContainerIn.model_fields}),
        (Engines.create, {*EngineIn.model_fields}),
        (Workers.create, {*WorkerIn.model_fields}),
        (Containers.exec, {"ref", *StartIn.model_fields} - {"type"}),
    ],
)
def test_a_call_has_what_the_api_has(method: Callable[..., Any], known: set[str]) -> None:
    assert _parameters(method) == known


def test_what_is_passed_on_has_what_it_is_passed_on_to_has() -> None:
    assert {*ContainerFields.__annotations__} == _parameters(Containers.create) - {
        *("image", "command", "attach", "start")
    }
    assert {*ExecFields.__annotations__} == _parameters(Containers.exec) - {
        *("ref", "command", "stdin")
    }
    assert {*EngineFields.__annotations__} == _parameters(Engines.create)


def test_everything_public_is_described() -> None:
    def public(node: ast.AST) -> Iterator[Described]:
        for one in ast.iter_child_nodes(node):
            if isinstance(one, Described) and not one.name.startswith("_"):
                yield one
                yield from public(one) if isinstance(one, ast.ClassDef) else ()

    undescribed = [
        f"{path.name}: {one.name}"
        for path in (ROOT / "src" / "warmboot" / "client").rglob("*.py")
        for one in public(ast.parse(path.read_text()))
        if ast.get_docstring(one) is None
    ]
    assert undescribed == []


def _parameters(method: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(method).parameters) - {"self"}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_its_page_work(
    served: Served, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMBOOT_URL", served.url)
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"{PAGE}, example {number}", "exec"), {"__name__": "example"})
    assert not served.fakes.containers.rows


COMPARED = (ROOT / "docs" / "reference" / "python-clients.md").read_text()
CLIENTS = ("warmboot", "docker-py", "E2B")


def programs(client: str) -> list[str]:
    """What the comparison has for one client: what all begin with, then a program a task."""
    return re.findall(rf"^```python\n# {client}\n(.*?)^```", COMPARED, re.DOTALL | re.MULTILINE)


def test_the_comparisons_programs_work(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listens(host: str, port: int) -> bool:
        return True  # nothing does behind a port of these fakes

    monkeypatch.setattr("warmboot.client.containers.containers.accepts", listens)
    monkeypatch.setenv("WARMBOOT_URL", served.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("print()")
    scope: dict[str, Any] = {}
    try:
        exec(compile("\n".join(programs("warmboot")), "the comparison", "exec"), scope)
        assert (tmp_path / "again" / "main.py").read_text() == "print()"
        assert [fork.state for fork in scope["forks"]] == ["running", "running"]
    finally:
        scope["client"].__exit__(None, None, None)


def test_the_comparison_counts_the_lines_that_are_there() -> None:
    rows = re.findall(r"^\| *(\d*) *\| .* \| (\d+) \| (\d+) \| (\d+) \|$", COMPARED, re.MULTILINE)
    counted = [[len(text.splitlines()) for text in programs(client)[1:]] for client in CLIENTS]
    told = [[int(row[column]) for row in rows[:-1]] for column in (1, 2, 3)]
    assert told == counted
    assert [int(total) for total in rows[-1][1:]] == [sum(lines) for lines in counted]
    for client in CLIENTS:
        compile("\n".join(programs(client)), client, "exec")


async def test_a_run_leaves_nothing_whatever_happens(served: Served) -> None:
    async with Client(served.url) as client:
        ill = await client.containers.run("busybox", ["err", "oh"], name="c")
        assert (ill.exit_code, ill.stdout, ill.stderr) == (0, b"", b"oh\n")
        assert (await client.containers.run("busybox", ["exit", "7"])).exit_code == 7
        with pytest.raises(CommandNotFound, match="the image has no program"):
            await client.containers.run("busybox", ["missing"])
        with pytest.raises(TimeoutError):
            await client.containers.run("busybox", ["sleep"], timeout_s=0.5)
        assert await client.containers.list(all_states=True) == []


async def test_a_command_that_is_cut_off_raises_the_managers_error(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(self: FakeSession, data: bytes) -> None:
        raise Unavailable("the guest is away")

    monkeypatch.setattr(FakeSession, "write", write)
    async with Client(served.url) as client:
        container_id = await client.containers.create("busybox")
        await client.containers.wait(container_id, "running")
        with pytest.raises(Unavailable, match="the guest is away"):
            await client.containers.run_command(container_id, ["cat"], stdin=b"x", timeout_s=60)
        with pytest.raises(TypeError):
            await client.containers.run_command(
                container_id,
                ["cat"],
                stdin="x",  # type: ignore[arg-type]
                timeout_s=60,
            )


def test_a_port_is_waited_for(served: Served) -> None:
    with SyncClient(served.url) as client, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client.containers.create("b", name="c", ports=[{"container_port": 80, "host_port": port}])
        assert client.containers.wait_for_port("c", 80) == ("127.0.0.1", port)
        with pytest.raises(Conflict, match="does not publish its port 81"):
            client.containers.wait_for_port("c", 81)
        listener.close()
        with pytest.raises(TimeoutError):
            client.containers.wait_for_port("c", 80, timeout_s=0.3)


def test_a_snapshot_is_there_for_as_long_as_its_context(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with SyncClient(served.url) as client, client.engines.running(name="e") as engine:
        image = client.images.register("default", path=str(tmp_path))
        known = client.snapshots.create(image.id)

        async def snapshot(ref: str, name: str) -> UUID:
            return UUID(known)

        monkeypatch.setattr(served.fakes.engines, "snapshot", snapshot)
        with client.engines.snapshotted(engine.name, "moment") as snapshot_id:
            assert client.snapshots.get(snapshot_id).state != "deleted"
        assert client.snapshots.get(snapshot_id).state == "deleted"
    assert not served.fakes.engines.rows


def test_a_containers_fork_is_there_for_as_long_as_its_context(served: Served) -> None:
    with SyncClient(served.url) as client:
        client.containers.create("busybox", name="c")
        client.containers.wait("c", "running")
        with client.containers.forked("c") as fork:
            assert client.containers.get(fork.id).state == "running"
        assert [one.name for one in client.containers.list(all_states=True)] == ["c"]


TESTS = """
seen = set()

def test_one(warmboot_fork, warmboot_engine):
    assert warmboot_fork.state == warmboot_engine.state == "running"
    seen.add(warmboot_fork.id)

def test_another(warmboot_fork, warmboot_engine, warmboot_client):
    assert warmboot_fork.id not in seen | {warmboot_engine.id}
    assert not seen & {one.id for one in warmboot_client.engines.list()}
"""


def test_each_test_has_a_fork_of_the_sessions_engine(served: Served, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["warmboot.testing"]\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--rootdir", ".", "."],
        cwd=tmp_path,
        env={**os.environ, "WARMBOOT_URL": served.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert not served.fakes.engines.rows
