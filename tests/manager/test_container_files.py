"""The inside of a container, through the guest's Docker: processes, changes, files, its name."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from tests.support.managers import Manager

from warmboot.manager.containers.host_ports import HostPorts
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerSpec, ContainerState
from warmboot.model.errors import Conflict, InvalidRequest, NameTaken, NotFound
from warmboot.model.tenants.inside import Change, ChangeKind, FileKind


async def _tar(name: str, content: bytes) -> AsyncIterator[bytes]:
    file, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o640
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content))
    data = file.getvalue()
    for at in range(0, len(data), 3000):
        yield data[at : at + 3000]


async def test_files_go_in_and_out_also_when_it_has_exited(manager: Manager) -> None:
    await manager.run("web", "sleep", "100")
    files = manager.services.files
    await files.write("web", "/tmp", _tar("file", b"x" * 50_000))
    await manager.containers.stop("web")
    assert (await manager.wait("web", Until.EXITED)).state is ContainerState.EXITED
    status = await files.status("web", "/tmp/file")
    assert (status.name, status.kind, status.size_bytes) == ("file", FileKind.FILE, 50_000)
    assert status.mode == 0o640
    assert (await files.status("web", "/tmp")).kind is FileKind.FOLDER
    data = b"".join([chunk async for chunk in files.read("web", "/tmp")])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["tmp", "tmp/file"]
    assert list(await files.changes("web")) == [Change("/tmp/file", ChangeKind.ADDED)]


async def test_what_is_not_there_is_told(manager: Manager) -> None:
    await manager.run("web", "sleep", "100")
    files = manager.services.files
    with pytest.raises(NotFound, match="there is no /absent in the container"):
        await files.status("web", "/absent")
    with pytest.raises(NotFound, match="there is no /absent in the container"):
        [chunk async for chunk in files.read("web", "/absent")]
    with pytest.raises(NotFound, match="there is no /absent in the container"):
        await files.write("web", "/absent", _tar("file", b""))
    await files.write("web", "/tmp", _tar("file", b""))
    with pytest.raises(InvalidRequest, match="it cannot be written to /tmp/file"):
        await files.write("web", "/tmp/file", _tar("file", b""))


async def test_its_processes_are_those_of_one_that_runs(manager: Manager) -> None:
    await manager.run("web", "sleep", "100")
    files = manager.services.files
    table = await files.processes("web", "-ef")
    assert table.titles[-1] == "CMD"
    assert [row[-1] for row in table.rows] == ["sleep 100"]
    with pytest.raises(InvalidRequest, match="`ps` does not take these options"):
        await files.processes("web", "--nonsense")
    await manager.containers.stop("web")
    with pytest.raises(Conflict, match="not running"):
        await files.processes("web", "-ef")


async def test_what_it_uses_is_told_while_it_runs(manager: Manager) -> None:
    await manager.run("web", "sleep", "100")
    found = await manager.services.files.stats("web")
    assert found.cpu_percent == pytest.approx(5, abs=0.1)  # as the simulated Docker counts
    assert (found.memory_bytes, found.processes) == (8 << 20, 1)
    assert (found.network_received_bytes, found.block_written_bytes) == (1_500, 8192)
    await manager.containers.stop("web")
    with pytest.raises(Conflict, match="not running"):
        await manager.services.files.stats("web")


async def test_another_name_and_the_same_host_name(manager: Manager) -> None:
    container = await manager.run("web", "sleep", "100")
    await manager.run("other", "sleep", "100")
    with pytest.raises(NameTaken):
        await manager.containers.rename("web", "other")
    renamed = await manager.containers.rename("web", "shop")
    assert (renamed.name, renamed.host_name) == ("shop", "web")
    with pytest.raises(NotFound):
        await manager.containers.get("web")
    events = await manager.events_of(container.id)
    (told,) = [event for event in events if event.kind == "container.renamed"]
    assert told.data == {"name": "shop", "was": "web"}
    await manager.run("web", "true")


async def test_a_name_that_is_given_while_it_is_started_stays(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await manager.create("web", start=False)
    free = HostPorts.free

    @contextlib.asynccontextmanager
    async def renamed_meanwhile(
        ports: HostPorts, spec: ContainerSpec, but: UUID | None = None, *, now: bool = True
    ) -> AsyncIterator[ContainerSpec]:
        await manager.containers.rename("web", "shop")
        async with free(ports, spec, but, now=now) as chosen:
            yield chosen

    monkeypatch.setattr(HostPorts, "free", renamed_meanwhile)
    await manager.containers.start("web")
    started = await manager.wait("shop", Until.RUNNING)
    assert (started.id, started.name, started.host_name) == (container_id, "shop", "web")
