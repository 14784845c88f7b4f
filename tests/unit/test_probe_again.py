"""A hypervisor exchanged under a running manager is looked at again; what snapshots need of it."""

from __future__ import annotations

from pathlib import Path

from warmboot.hypervisors.qemu import Qemu, QemuConfig
from warmboot.hypervisors.qemu.arguments import machine_options, versioned_machine
from warmboot.hypervisors.qemu.config import Machine
from warmboot.hypervisors.stamp import stamp_of


def install(path: Path, version: str) -> None:
    """As a package manager does: a new file, renamed over the old one."""
    new = path.with_suffix(".new")
    new.write_text(f"#!/bin/sh\necho looked >> {path}.log\necho QEMU emulator version {version}\n")
    new.chmod(0o755)
    new.rename(path)


async def test_an_upgrade_is_seen_by_the_next_probe(tmp_path: Path) -> None:
    binary = tmp_path / "qemu"
    install(binary, "10.0.2")
    qemu = Qemu(QemuConfig(binary=str(binary), accelerator="tcg"))
    assert (await qemu.probe()).host.hypervisor_version == "10.0.2"
    install(binary, "10.1.0")
    assert (await qemu.probe()).host.hypervisor_version == "10.1.0"


async def test_a_program_that_stays_is_looked_at_once(tmp_path: Path) -> None:
    binary = tmp_path / "qemu"
    install(binary, "10.0.2")
    qemu = Qemu(QemuConfig(binary=str(binary), accelerator="tcg"))
    first = await qemu.probe()
    looked = (tmp_path / "qemu.log").read_text()
    assert await qemu.probe() is first
    assert (tmp_path / "qemu.log").read_text() == looked


async def test_a_program_that_is_removed_and_comes_back_is_noticed(tmp_path: Path) -> None:
    binary = tmp_path / "qemu"
    install(binary, "10.0.2")
    qemu = Qemu(QemuConfig(binary=str(binary), accelerator="tcg"))
    assert (await qemu.probe()).usable
    binary.unlink()
    assert not (await qemu.probe()).usable
    install(binary, "10.0.2")
    assert (await qemu.probe()).usable


def test_the_stamp_of_nothing_is_none(tmp_path: Path) -> None:
    assert stamp_of(str(tmp_path / "nothing")) is None
    assert stamp_of("no-such-program-anywhere") is None


def test_options_tell_machines_apart_and_are_always_the_same() -> None:
    q35, microvm = QemuConfig(machine=Machine.Q35), QemuConfig(machine=Machine.MICROVM)
    assert machine_options(q35, "q35", "tcg") == machine_options(q35, "q35", "tcg")
    machines = [(q35, "pc-q35-10.0"), (q35, "pc-q35-10.1"), (microvm, "microvm")]
    assert len({machine_options(c, m, a) for c, m in machines for a in ("tcg", "kvm")}) == 6
    assert machine_options(q35, "pc-q35-10.0", "tcg").startswith("pc-q35-10.0,")


def test_options_do_not_depend_on_what_does_not_matter_to_a_saved_state() -> None:
    small = QemuConfig(translation_cache_mib=32)
    large = QemuConfig(translation_cache_mib=256)
    assert machine_options(small, "q35", "tcg") == machine_options(large, "q35", "tcg")


def test_a_machine_is_the_versioned_type_that_its_name_means() -> None:
    offered = """Supported machines are:
microvm              microvm (i386)
pc-q35-9.2           Standard PC (Q35 + ICH9, 2009)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)
pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)
"""
    assert versioned_machine(QemuConfig(), offered) == "pc-q35-10.0"
    assert versioned_machine(QemuConfig(machine=Machine.MICROVM), offered) == "microvm"
    assert versioned_machine(QemuConfig(), "") == "q35"
