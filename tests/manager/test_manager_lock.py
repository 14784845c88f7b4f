"""Two managers never work on one storage root, one database or one network prefix."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.bootstrap import service
from warmboot.host import manager_lock
from warmboot.host.manager_lock import LOCK_FILE, only_manager
from warmboot.host.network.namespace_processes import NamespaceProcess
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, HostError, WarmbootError


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(manager_lock, "RUN_DIR", tmp_path / "run")
    return tmp_path / "run"


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# -- the storage root ------------------------------------------------------------------------------


async def test_a_second_manager_is_told_who_the_first_is_and_touches_nothing(
    manager: Manager,
) -> None:
    await manager.run()
    vms = vmm_pids(manager.lab.storage)
    with pytest.raises(Conflict, match="another manager runs on the storage root") as told:
        async with manager.lab.manager(port=18099):
            pass
    for part in (f"pid {os.getpid()}", "since 20", "http://127.0.0.1:18080", LOCK_FILE):
        assert part in told.value.details
    assert f"kill {os.getpid()}" in told.value.resolution
    assert vmm_pids(manager.lab.storage) == vms
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING
    await check(manager.running)


def test_a_storage_root_that_cannot_be_used_says_what_to_set(run_dir: Path) -> None:
    for root in (Path("/sys/warmboot"), Path("/dev/null/warmboot")):
        with (
            pytest.raises(HostError, match=f"the storage root {root} cannot be used") as told,
            only_manager(root, "http://127.0.0.1:1"),
        ):
            pass
        assert "MANAGER_STORAGE_ROOT" in told.value.resolution


async def test_a_link_to_the_storage_root_is_the_same_root(manager: Manager) -> None:
    link = manager.lab.root / "link"
    link.symlink_to(manager.lab.storage)
    with pytest.raises(Conflict, match="storage root"):
        async with manager.lab.manager(storage_root=link):
            pass


async def test_two_roots_do_not_share_a_database_file(place: Lab) -> None:
    shared = {"database_url": f"sqlite:///{place.root}/shared.db"}
    async with place.manager(**shared):
        with pytest.raises(Conflict, match="with the database") as told:
            async with place.manager(storage_root=place.root / "b", **shared):
                pass
        assert str(place.storage) in told.value.details


async def test_another_root_does_not_get_the_database_that_lies_in_this_one(place: Lab) -> None:
    async with place.manager():
        other = place.root / "b"
        other.mkdir()
        (other / "warmboot.db").symlink_to(place.storage / "warmboot.db")
        for settings in ({"database_url": f"sqlite:///{place.storage}/warmboot.db"}, {}):
            with pytest.raises(Conflict, match="with the database"):
                async with place.manager(storage_root=other, **settings):
                    pass


async def test_a_hard_link_to_a_database_leads_nobody_into_it(place: Lab) -> None:
    async with place.manager():
        other = place.root / "b"
        other.mkdir()
        link = other / "warmboot.db"
        link.hardlink_to(place.storage / "warmboot.db")
        for settings in ({}, {"database_url": f"sqlite:///{link}"}):
            with pytest.raises(Conflict, match="has more than one name") as told:
                async with place.manager(storage_root=other, **settings):
                    pass
            assert str(link) in told.value.resolution
        link.unlink()
    async with place.manager() as manager:
        await check(manager.running)


async def test_the_lock_ends_with_the_manager(place: Lab) -> None:
    for _ in range(2):
        async with place.manager():
            pass


async def test_a_vm_does_not_hold_the_lock_of_the_manager_that_it_outlives(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run()
        pid = await manager.vm_pid("web")
        held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115
        assert not [path for path in held if path.endswith(".lock")]
    async with place.manager() as manager:
        assert await manager.vm_pid("web") == pid
        await manager.containers.delete("web", force=True)


async def test_a_lock_whose_file_was_removed_is_not_handed_to_two_who_come_later(
    tmp_path: Path,
) -> None:
    with only_manager(tmp_path, "http://one"):
        pass
    (tmp_path / LOCK_FILE).unlink()
    with (
        only_manager(tmp_path, "http://two"),
        pytest.raises(Conflict, match="storage root") as told,
        only_manager(tmp_path, "http://three"),
    ):
        pass
    assert "http://two" in told.value.details


async def test_who_has_not_said_yet_who_it_is_holds_the_lock_all_the_same(tmp_path: Path) -> None:
    with only_manager(tmp_path, "http://one"):
        (tmp_path / LOCK_FILE).write_text("")
        with (
            pytest.raises(Conflict, match="storage root") as told,
            only_manager(tmp_path, "http://two"),
        ):
            pass
    assert "has not identified itself yet" in told.value.details


# -- the network prefix ----------------------------------------------------------------------------


async def test_two_roots_do_not_share_a_prefix(tmp_path: Path, run_dir: Path) -> None:
    with (
        only_manager(tmp_path / "a", "http://one", prefix="zz"),
        pytest.raises(Conflict, match="network prefix 'zz'") as told,
        only_manager(tmp_path / "b", "http://two", prefix="zz"),
    ):
        pass
    assert "http://one" in told.value.details
    assert str(tmp_path / "a") in told.value.details
    assert str(run_dir / "network-zz.lock") in told.value.details


def running(root: Path, pid: int = 4711) -> Callable[[str], list[NamespaceProcess]]:
    return lambda prefix: [
        NamespaceProcess(pid, os.fsencode(f"qemu\0{root}/vms/vm-1/x"), f"{prefix}-1")
    ]


async def test_vms_of_a_root_whose_manager_does_not_run_keep_their_prefix(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_manager(tmp_path / "a", "http://one", prefix="zz"):
        pass
    monkeypatch.setattr(manager_lock, "namespace_processes", running(tmp_path / "a"))
    for _ in range(2):  # being refused does not make it ours
        with (
            pytest.raises(Conflict, match=r"root .*/a run in the networks") as told,
            only_manager(tmp_path / "b", "http://two", prefix="zz"),
        ):
            pass
        assert "4711" in told.value.details
        assert f"MANAGER_STORAGE_ROOT={tmp_path}/a" in told.value.resolution
    with only_manager(tmp_path / "a", "http://three", prefix="zz"):
        pass
    monkeypatch.setattr(manager_lock, "namespace_processes", lambda _: [])
    with only_manager(tmp_path / "b", "http://four", prefix="zz"):
        pass


async def test_a_command_that_ends_a_moment_after_its_manager_is_no_vm(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_manager(tmp_path / "a", "http://one", prefix="zz"):
        pass
    looks = iter([[NamespaceProcess(4711, b"nft\0-j\0list\0ruleset\0", "zz-1")], []])
    monkeypatch.setattr(manager_lock, "namespace_processes", lambda _: next(looks))
    with only_manager(tmp_path / "b", "http://two", prefix="zz"):
        pass
    assert next(looks, None) is None


async def test_after_an_upgrade_a_root_knows_its_own_vms_by_their_command_line(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.mkdir()
    (run_dir / "network-zz.lock").touch()  # an earlier version wrote nothing into it
    monkeypatch.setattr(manager_lock, "namespace_processes", running(tmp_path / "a"))
    with (
        pytest.raises(Conflict, match="VMs of another storage root"),
        only_manager(tmp_path / "b", "http://two", prefix="zz"),
    ):
        pass
    with only_manager(tmp_path / "a", "http://one", prefix="zz"):
        pass


def test_who_is_refused_leaves_no_storage_root_behind(tmp_path: Path, run_dir: Path) -> None:
    root, database = tmp_path / "new" / "root", tmp_path / "warmboot.db"
    for other in ({"prefix": "zz"}, {"database": database}):
        with (
            only_manager(tmp_path / "first", "http://one", **other),
            pytest.raises(Conflict),
            only_manager(root, "http://two", **other),
        ):
            pass
        assert not root.parent.exists()


async def test_nobody_else_can_hold_the_locks(tmp_path: Path, run_dir: Path) -> None:
    with only_manager(tmp_path, "http://one", prefix="zz"):
        for path in (tmp_path / LOCK_FILE, run_dir / "network-zz.lock"):
            assert path.stat().st_mode & 0o777 == 0o600


async def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / LOCK_FILE).symlink_to(elsewhere)
    with pytest.raises(WarmbootError), only_manager(tmp_path, "http://one"):
        pass
    assert not elsewhere.exists()


# -- the port --------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_told_before_anything_is_begun(place: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"cannot listen on 127.0.0.1:{port}") as told:
            await service.serve(place.settings(port=port))
    assert "in use" in told.value.details
    assert "MANAGER_PORT" in told.value.resolution
    assert {path.name for path in place.storage.iterdir()} == {LOCK_FILE, "warmboot.db.lock"}


async def test_a_second_one_with_the_same_settings_hears_of_the_first_and_not_of_the_port(
    manager: Manager,
) -> None:
    with pytest.raises(Conflict, match="storage root"):
        await service.serve(manager.lab.settings())


_SERVE = """
import sys
from warmboot.cli.commands.host import serve
try:
    serve(host=None, port=None)
except BaseException as ended:
    print(type(ended).__name__, "warmboot.bootstrap.service" in sys.modules)
"""


def test_who_is_refused_need_not_wait_until_a_whole_manager_is_imported(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MANAGER_STORAGE_ROOT": str(tmp_path),
        "MANAGER_HYPERVISOR": "simulated",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with only_manager(tmp_path, "http://one"):
        ran = subprocess.run(
            [sys.executable, "-c", _SERVE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "another manager runs" in ran.stderr
    assert ran.stdout.split()[-1] == "False"


async def test_of_two_that_make_a_storage_root_at_once_the_refused_one_leaves_it(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new"
    with only_manager(root, "http://one"):
        # The second one looked just before the first one had made it.
        monkeypatch.setattr(os.path, "lexists", lambda path: Path(path) != root)
        with pytest.raises(Conflict), only_manager(root, "http://two"):
            pass
        assert (root / LOCK_FILE).exists()
