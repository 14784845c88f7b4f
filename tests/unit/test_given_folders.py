"""Folders that cannot be given together with something else that an engine is to have."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from warmboot.manager.containers.container_states import fork_of
from warmboot.manager.folders import given_folders, tenant_folders
from warmboot.manager.folders.given_folders import shared_folders, told_as_here
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.tenants.fork_tenant import NewFork
from warmboot.model.container import Container, ContainerSpec, ContainerState
from warmboot.model.errors import HostError, InvalidRequest
from warmboot.model.runtime_snapshot import FOLDERS
from warmboot.model.shapes import Shape
from warmboot.model.tenants.container_options import ContainerOptions, Mount, MountType
from warmboot.model.tenants.engine import EngineSpec
from warmboot.model.tenants.host_folder import HostFolder


@pytest.mark.parametrize(
    ("port", "mirror", "possible"),
    [(917, None, False), (918, None, True), (918, 917, False), (918, 5000, True)],
)
async def test_the_port_at_which_folders_are_is_no_port_of_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, mirror: int | None, possible: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    vms = SimpleNamespace(engine_network=object(), mirror_port=mirror)
    given = TenantFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)))
    folder = HostFolder(str(tmp_path.resolve()))
    spec = EngineSpec("ci", 0, host_ports=(port,), folders=(folder,))
    if possible:
        assert await given.checked(spec, None) == (folder,)
    else:
        with pytest.raises(InvalidRequest, match="917"):
            await given.checked(spec, None)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("", []),
        (" , ", []),
        ("/srv", ["/srv"]),
        ("/srv:ro, /home/all:rw,", ["/srv:ro", "/home/all"]),
        ("/srv:ro,/srv/data", ["/srv:ro", "/srv/data"]),
        ("/a:b", ["/a:b"]),
    ],
)
def test_shared_folders_are_read(
    monkeypatch: pytest.MonkeyPatch, said: str, read: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folders = shared_folders(said, "MANAGER_SHARED_FOLDERS")
    assert [one.path + (":ro" if one.read_only else "") for one in folders] == read
    assert all(one.optional for one in folders)


@pytest.mark.parametrize(
    ("said", "uid", "why"),
    [
        ("srv", 0, "no absolute path"),
        ("/srv,/srv:ro", 0, "named twice"),
        ("/srv,/srv/data:ro", 0, "cannot be read-only: it is in /srv"),
        ("/srv", 1000, "runs as root"),
    ],
)
def test_shared_folders_that_cannot_be_are_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, said: str, uid: int, why: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(InvalidRequest, match=f"MANAGER_SHARED_FOLDERS cannot be used: .*{why}"):
        shared_folders(said, "MANAGER_SHARED_FOLDERS")


async def test_an_engine_gets_the_shared_folders_that_its_owner_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("all", "asked", "asked/in", "secret"):
        (tmp_path / name).mkdir()
    place = tmp_path.resolve()

    async def may_read(uid: int, path: str) -> bool:
        return (uid, path) != (1000, f"{place}/secret")

    monkeypatch.setattr(given_folders, "may_read", may_read)
    shared = [
        HostFolder(f"{place}/{name}", read_only, optional=True)
        for name, read_only in (("all", True), ("asked/in", True), ("secret", False), ("no", False))
    ]
    vms = SimpleNamespace(engine_network=object(), mirror_port=None)
    given = TenantFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)), shared)
    asked = HostFolder(f"{place}/asked")
    for uid, names in ((1000, ["all"]), (0, ["all", "secret"])):
        spec = EngineSpec("ci", uid, folders=(asked,))
        expected = [one for one in shared if Path(one.path).name in names]
        assert await given.checked(spec, None) == (asked, *expected)
    vms.engine_network = None
    assert await given.checked(EngineSpec("ci", 1000), None) == (), "where there can be none"


def test_a_folder_into_which_root_may_not_look_is_refused_with_what_keeps_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def stat(_: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(InvalidRequest) as refused:
        given_folders.found(HostFolder(str(tmp_path / "no")))
    assert "exists" in refused.value.resolution
    with monkeypatch.context() as patch, pytest.raises(InvalidRequest) as refused:
        patch.setattr(Path, "stat", stat)
        given_folders.found(HostFolder("/srv/of-a-user"))
    assert "FUSE" in refused.value.resolution


async def test_a_shared_folder_that_does_not_answer_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    answers = threading.Event()
    found = given_folders.found

    def look(folder: HostFolder) -> HostFolder:
        assert not folder.path.endswith("hangs") or answers.wait(60)
        return found(folder)

    async def may_read(_: int, path: str) -> bool:
        if path.endswith("slow"):
            monkeypatch.setattr(given_folders, "LOOK_TIMEOUT_S", 0.05)  # for the next one
            raise HostError("setpriv took longer than 20 s")
        return True

    monkeypatch.setattr(given_folders, "found", look)
    monkeypatch.setattr(given_folders, "may_read", may_read)
    monkeypatch.setattr(tenant_folders, "found", look)
    shared = [HostFolder(f"{tmp_path.resolve()}/{name}") for name in ("answers", "slow", "hangs")]
    for folder in shared:
        Path(folder.path).mkdir()
    vms = SimpleNamespace(engine_network=object(), mirror_port=None)
    given = TenantFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)), shared)
    try:
        assert await given.checked(EngineSpec("ci", 1000), None) == (shared[0],)
        with pytest.raises(HostError, match="does not answer"):
            await given.checked(EngineSpec("ci", 1000, folders=(shared[2],)), None)
    finally:
        answers.set()


async def test_what_goes_on_from_a_moment_reads_its_folders_and_a_fork_writes_if_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    vms = SimpleNamespace(engine_network=object(), mirror_port=None)
    given = TenantFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)))
    here, gone = str(tmp_path.resolve()), "/nonexistent"
    moment = SimpleNamespace(name=None, metadata={FOLDERS: [here, gone]})
    read_only = tuple(HostFolder(path, read_only=True, optional=True) for path in (here, gone))
    assert await given.checked(EngineSpec("ci", 0), cast(Any, moment)) == read_only
    writable = EngineSpec("ci", 0, folders=(HostFolder(here),))
    expected = (HostFolder(here), read_only[1])
    assert await given.checked(writable, cast(Any, moment)) == expected
    shared = (HostFolder(here, optional=True), HostFolder(gone, optional=True))
    writable = EngineSpec("ci", 0, folders=shared)
    assert await given.checked(writable, cast(Any, moment)) == shared, "one is gone meanwhile"
    moment.name = "seeded"
    assert await given.checked(EngineSpec("ci", 0), cast(Any, moment)) == read_only
    with pytest.raises(InvalidRequest, match="comes with the snapshot"):
        await given.checked(writable, cast(Any, moment))


@pytest.mark.parametrize("writable", [False, True])
def test_a_fork_of_a_container_reads_its_folders_and_writes_if_asked_to(writable: bool) -> None:
    folders = (HostFolder("/own"), HostFolder("/other", read_only=True))
    source = Container(
        uuid4(),
        ContainerSpec("app", "redis", folders=folders),
        ContainerState.RUNNING,
        datetime.now(UTC),
        Shape(1, 1024),
    )
    spec = fork_of(source, NewFork(uuid4(), "app-1", uuid4(), writable))
    assert [one.path for one in spec.folders] == ["/own", "/other"]
    assert [one.read_only for one in spec.folders] == [not writable, True]


def container(*sources: str, folders: tuple[HostFolder, ...] = (), uid: int = 0) -> ContainerSpec:
    mounts = tuple(
        Mount(f"/src{number}", MountType.BIND, source) for number, source in enumerate(sources)
    )
    options = ContainerOptions(mounts=(Mount("/data", source="db"), *mounts))
    return ContainerSpec("app", "redis", options=options, folders=folders, owner_uid=uid)


async def test_a_container_gets_its_folders_and_those_of_the_shared_ones_that_it_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    place = tmp_path.resolve()
    for name in ("own/code", "all/new", "other", "secret"):
        (place / name).mkdir(parents=True)
    (place / "link").symlink_to(place / "own" / "code")
    (place / "own" / "out").symlink_to(place)

    async def may_read(_: int, path: str) -> bool:
        return not path.endswith("secret")

    monkeypatch.setattr(given_folders, "may_read", may_read)
    own = HostFolder(f"{place}/own", read_only=True)
    shared = [HostFolder(f"{place}/{name}", optional=True) for name in ("all", "other", "secret")]
    vms = SimpleNamespace(engine_network=object(), mirror_port=None)
    given = TenantFolders(cast(Any, None), cast(Any, SimpleNamespace(vms=vms)), shared)

    assert await given.checked_for(container()) == (), "one that mounts none has no server"
    spec = container(f"{place}/link", f"{place}/all/new", folders=(own,))
    assert await given.checked_for(spec) == (own, shared[0])
    mounted = await given.mounted(replace(spec, folders=(own, shared[0])))
    assert [one.source for one in mounted.options.mounts] == [
        "db",
        f"/run/warmboot/folders/{own.id}/code",
        f"/run/warmboot/folders/{shared[0].id}/new",
    ]
    for source in ("own", "own/out/other2", "secret", "own/../x"):
        with pytest.raises(InvalidRequest, match="cannot be mounted") as refused:
            await given.checked_for(container(f"{place}/{source}"))
        assert "--folder" in refused.value.resolution
    for name in ("no", "n" * 300):
        with pytest.raises(InvalidRequest, match="bind source path does not exist"):
            await given.checked_for(container(f"{place}/own/{name}", folders=(own,)))
    (place / "link").unlink()
    (place / "link").symlink_to(place)
    with pytest.raises(InvalidRequest, match="cannot be mounted"):
        await given.mounted(replace(spec, folders=(own, shared[0])))
    vms.engine_network = None
    with pytest.raises(InvalidRequest, match="no network"):
        await given.checked_for(container(folders=(own,)))


def test_what_a_vms_docker_says_of_a_folder_has_its_name_here() -> None:
    folders = (HostFolder("/srv/own"), HostFolder("/srv/other"))
    said = f"stat /run/warmboot/folders/{folders[1].id}/in: stale NFS file handle"
    with (
        pytest.raises(HostError) as raised,
        told_as_here(folders),
    ):
        raise HostError("Docker refused", details=said, resolution="?")
    assert raised.value.details == "stat /srv/other/in: stale NFS file handle"
    assert raised.value.resolution.startswith("/srv/other is gone")
    with pytest.raises(HostError) as raised, told_as_here(()):
        raise HostError("Docker refused", details="no such file", resolution="?")
    assert (raised.value.details, raised.value.resolution) == ("no such file", "?")
