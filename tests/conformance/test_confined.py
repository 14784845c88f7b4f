"""What every VMM may use and see: its limits, its files, its namespaces."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.conformance.keeper import Keeper
from tests.conformance.rigs import Rig, params
from tests.support.eventually import until

from warmboot.hypervisors import cgroups
from warmboot.hypervisors.cgroups import Cgroups
from warmboot.hypervisors.confinement import Confinement, file_limit_bytes, limits_of
from warmboot.model.errors import HypervisorError

# A simulated VM has no limits.
pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("rig", params("firecracker", "qemu"), indirect=True),
]

PREFIX = "wbconf"


@pytest.fixture
async def groups(rig: Rig) -> AsyncIterator[Cgroups]:
    groups = Cgroups(PREFIX, cgroups.here())
    groups.prepare()
    rig.confinement = Confinement(groups, console_bytes=512)
    yield groups
    for name in groups.names():
        groups.remove(name)
    groups.tear_down()


@pytest.fixture
async def confined(rig: Rig, groups: Cgroups) -> AsyncIterator[Keeper]:
    keeper = Keeper(rig)
    yield keeper
    await keeper.end()


async def test_a_vmm_is_in_its_group_with_its_limits_when_boot_returns(
    confined: Keeper, groups: Cgroups
) -> None:
    spec, vm = await confined.boot()
    limits = limits_of(spec, rig_overhead(confined))
    assert _in_all(groups, spec.id, vm.handle.pid)
    assert _figures(groups, spec.id) == {
        "memory": limits.memory_bytes,
        "pids": limits.pids,
        "cpu": round(limits.cpus * cgroups.PERIOD_US),
    }


async def test_a_clones_vmm_is_in_its_group(confined: Keeper, groups: Cgroups) -> None:
    _, snapshot = await confined.saved()
    spec, vm = await confined.restore(snapshot)
    assert _in_all(groups, spec.id, vm.handle.pid)


async def test_a_killed_vm_leaves_no_group(confined: Keeper, groups: Cgroups) -> None:
    spec, vm = await confined.boot()
    assert groups.names() == {spec.id}
    await vm.kill()
    assert groups.names() == set()


async def test_a_boot_that_fails_leaves_no_group(
    confined: Keeper, rig: Rig, groups: Cgroups
) -> None:
    spec = dataclasses.replace(rig.make_spec(), kernel=rig.home / "nothing")
    with pytest.raises(HypervisorError):
        await confined.driver.boot(spec)
    assert groups.names() == set()


async def test_a_guest_that_prints_for_ever_does_not_fill_the_disk(
    confined: Keeper, rig: Rig
) -> None:
    spec, vm = await confined.boot()
    log = spec.run_dir / rig.console
    await until(lambda: log.stat().st_size >= 512)
    await vm.pause()
    await vm.resume()  # it runs on without a reader
    await asyncio.sleep(0.3)  # in which it prints many times as much
    assert str((await vm.status()).value) == "running"
    assert log.stat().st_size == 512


async def test_a_vmms_files_do_not_grow_beyond_its_disks_and_memory(confined: Keeper) -> None:
    spec, vm = await confined.boot()
    limit = resource.prlimit(vm.handle.pid, resource.RLIMIT_FSIZE)
    assert limit == (file_limit_bytes(spec),) * 2
    assert resource.prlimit(vm.handle.pid, resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize("kind", ["mnt", "ipc", "pid"])
async def test_a_vmm_has_namespaces_of_its_own(confined: Keeper, kind: str) -> None:
    spaces = [_namespace((await confined.boot())[1].handle.pid, kind) for _ in range(2)]
    assert len({*spaces, _namespace(os.getpid(), kind)}) == 3


def rig_overhead(keeper: Keeper) -> int:
    return keeper.rig.confinement.overhead_mib


def _in_all(groups: Cgroups, name: str, pid: int) -> bool:
    """Whether a process is in the group of that name in every hierarchy that has limits."""
    folders = [h.path / "warmboot.slice" / PREFIX / name for h in groups.hierarchies]
    return all(str(pid) in (f / "cgroup.procs").read_text().split() for f in folders)


def _namespace(pid: int, kind: str) -> int:
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def _figures(groups: Cgroups, name: str) -> dict[str, int]:
    """What the kernel has of a group's limits."""
    files = {
        ("memory", 1): "memory.limit_in_bytes",
        ("memory", 2): "memory.max",
        ("pids", 1): "pids.max",
        ("pids", 2): "pids.max",
        ("cpu", 1): "cpu.cfs_quota_us",
        ("cpu", 2): "cpu.max",
    }
    found = {}
    for hierarchy in groups.hierarchies:
        for controller in hierarchy.controllers - {"io"}:
            file = files[controller, hierarchy.version]
            text = (hierarchy.path / "warmboot.slice" / PREFIX / name / file).read_text()
            found[controller] = int(text.split()[0])
    return found
