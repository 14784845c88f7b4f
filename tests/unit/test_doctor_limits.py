"""What ``doctor`` says of the limits that VMs are held to, and of what this user may not do."""

from __future__ import annotations

from pathlib import Path

from warmboot.hypervisors.cgroups import CONTROLLERS, SLICE, Hierarchy
from warmboot.manager import doctor

ALL = frozenset(CONTROLLERS)


def test_limits_that_are_in_force_are_named_with_their_version(tmp_path: Path) -> None:
    check = doctor.limits([Hierarchy(tmp_path, 2, ALL)])
    assert check.ok
    assert check.summary == "each VM has a control group with cpu, memory, pids, io (version 2)"


def test_controllers_of_several_hierarchies_count_together(tmp_path: Path) -> None:
    found = [Hierarchy(tmp_path, 1, frozenset({name})) for name in CONTROLLERS]
    assert doctor.limits(found).ok
    lacking = doctor.limits(found[:-1])
    assert not lacking.ok
    assert lacking.summary.endswith("cpu, memory, pids (version 1); missing: io")
    assert "mount the controllers" in lacking.remedy
    assert not lacking.required, "VMs run without them"


def test_a_controller_that_could_not_be_switched_on_is_missing(tmp_path: Path) -> None:
    (tmp_path / SLICE).mkdir()
    (tmp_path / SLICE / "cgroup.subtree_control").write_text("cpu pids\n")
    check = doctor.limits([Hierarchy(tmp_path, 2, ALL)])
    assert not check.ok
    assert check.summary.endswith("cpu, pids (version 2); missing: memory, io")


def test_without_hierarchies_that_can_be_written_to_there_are_no_limits() -> None:
    for found in ([], [Hierarchy(Path("/nowhere"), 2, ALL)]):
        check = doctor.limits(found)
        assert not check.ok
        assert check.summary.endswith("with none; missing: cpu, memory, pids, io")


def test_a_manager_that_is_not_root_s_has_no_limits_and_says_so() -> None:
    check = doctor.limits(None)
    assert not check.ok
    assert "only root can create them" in check.summary
    assert check.remedy == "run it as root"


async def test_what_a_simulation_does_not_need_is_not_required_of_it(tmp_path: Path) -> None:
    checks = await doctor.examine([], tmp_path, 0, simulated=True)
    assert [check.name for check in checks if check.required] == ["disk", "simulated"]
    assert all(check.ok for check in checks if check.required)
    real = await doctor.examine([], tmp_path, 0, simulated=False)
    assert {"root", "tun", "nft"} < {check.name for check in real if check.required}


def test_a_tun_device_that_may_not_be_opened_is_no_missing_module() -> None:
    assert doctor.tun_remedy(PermissionError(), uid=1000) == "run it as root"
    assert "modprobe tun" in doctor.tun_remedy(FileNotFoundError(), uid=1000)
    assert "container" in doctor.tun_remedy(PermissionError(), uid=0)
