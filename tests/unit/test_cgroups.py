"""Which control groups a host has, and what is written to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmboot.hypervisors import cgroups
from warmboot.hypervisors.cgroups import Cgroups, Hierarchy, Limits
from warmboot.hypervisors.confinement import PIDS, Confinement, file_limit_bytes, limits_of
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, VmSpec

LIMITS = Limits(memory_bytes=1 << 30, cpus=2.5, pids=99)


def unified(root: Path, *offered: str) -> str:
    """A line of ``/proc/self/mounts``, and the files of a hierarchy of version 2."""
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text(" ".join(offered))
    return f"cgroup2 {root} cgroup2 rw,relatime 0 0\n"


def test_version_1_has_a_hierarchy_for_each_controller_or_several_together() -> None:
    mounts = (
        "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "cgroup /c/memory cgroup rw,memory 0 0\n"
        "cgroup /c/blkio cgroup rw,blkio 0 0\n"
        "cgroup /c/systemd cgroup rw,name=systemd 0 0\n"
    )
    found = cgroups.find(mounts.splitlines())
    assert {h.path.name: set(h.controllers) for h in found} == {
        "cpu,cpuacct": {"cpu"},
        "memory": {"memory"},
        "blkio": {"io"},
    }
    assert cgroups.missing(found) == ["pids"]
    assert cgroups.described(found) == "cpu, memory, io (version 1)"


def test_version_2_has_what_it_offers(tmp_path: Path) -> None:
    found = cgroups.find(unified(tmp_path, "cpuset", "cpu", "io", "memory", "pids").splitlines())
    assert found == (Hierarchy(tmp_path, 2, frozenset(cgroups.CONTROLLERS)),)
    assert cgroups.missing(found) == []


def test_a_controller_is_taken_from_one_hierarchy_only(tmp_path: Path) -> None:
    first = "cgroup /c/cpu cgroup rw,cpu 0 0\n"
    found = cgroups.find((first + unified(tmp_path, "cpu", "pids")).splitlines())
    assert [set(h.controllers) for h in found] == [{"cpu"}, {"pids"}]


def test_a_hierarchy_without_a_controller_of_ours_is_left_alone(tmp_path: Path) -> None:
    assert cgroups.find(unified(tmp_path).splitlines()) == ()


def test_limits_of_version_2(tmp_path: Path) -> None:
    groups = Cgroups("wb", [Hierarchy(tmp_path, 2, frozenset(cgroups.CONTROLLERS))])
    groups.create("vm-1", LIMITS)
    group = tmp_path / "warmboot.slice/wb/vm-1"
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "memory.max": str(1 << 30),
        "cpu.max": "250000 100000",
        "cpu.weight": "100",
        "pids.max": "99",
    }


def test_a_process_beside_a_vmm_is_under_its_limits(tmp_path: Path) -> None:
    groups = Cgroups("wb", [Hierarchy(tmp_path, 2, frozenset(cgroups.CONTROLLERS))])
    groups.create("vm-1", LIMITS)
    Confinement(groups).join_beside("vm-1", 4711)
    assert (tmp_path / "warmboot.slice/wb/vm-1/cgroup.procs").read_text() == "4711"
    Confinement(groups).join_beside("vm-2", 4711)  # which was started without a group
    Confinement().join_beside("vm-1", 4711)


def test_a_hierarchy_that_cannot_be_written_to_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "warmboot.slice").write_text("in the way")
    groups = Cgroups("wb", [Hierarchy(tmp_path, 1, frozenset({"memory"}))])
    groups.prepare()
    assert groups.hierarchies == ()


def make_spec(tmp_path: Path, *disks: Disk, memory_mib: int = 768) -> VmSpec:
    return VmSpec(
        id="vm",
        run_dir=tmp_path,
        shape=Shape(2, memory_mib),
        kernel=tmp_path,
        initrd=None,
        cmdline="",
        disks=disks,
    )


@pytest.mark.parametrize("memory_mib", [256, 768, 8192, 65536])
def test_a_vm_may_use_its_guests_memory_and_the_overhead(tmp_path: Path, memory_mib: int) -> None:
    limits = limits_of(make_spec(tmp_path, memory_mib=memory_mib), 640)
    assert limits.memory_bytes >= (memory_mib + 640) << 20
    assert limits.cpus == 3.0
    assert limits.pids == PIDS + 2


def test_a_file_may_become_as_long_as_a_full_overlay_and_no_longer(tmp_path: Path) -> None:
    base = tmp_path / "disk.ext4"
    with base.open("w") as file:
        file.truncate(10 << 30)
    overlay = tmp_path / "disk.qcow2"
    overlay.write_bytes(b"QFI")
    read_only = tmp_path / "rootfs"
    with read_only.open("w") as file:
        file.truncate(40 << 30)
    spec = make_spec(
        tmp_path,
        Disk(read_only, read_only=True),
        Disk(overlay, format=DiskFormat.QCOW2, base=base),
    )
    assert 10 << 30 < file_limit_bytes(spec) < 11 << 30


def test_the_memory_of_a_saved_vm_fits_into_a_file(tmp_path: Path) -> None:
    assert file_limit_bytes(make_spec(tmp_path, memory_mib=8192)) > 8192 << 20
