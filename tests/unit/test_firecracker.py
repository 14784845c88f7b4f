"""The Firecracker driver: its parts alone, and what only Firecracker does, on the real binary."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import tiny_guest
from tests.support.firecracker import Namespace, firecracker_binary, kvm_opens

from warmboot.hypervisors.files import cpu_flags
from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig, kvm, layout
from warmboot.hypervisors.firecracker.api import FirecrackerApi, fault_message
from warmboot.hypervisors.firecracker.binary import versions
from warmboot.hypervisors.process import VmmProcess
from warmboot.model.errors import HypervisorError, RestoreFailed, VmGone
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, VmSpec

real_firecracker = [
    pytest.mark.firecracker,
    pytest.mark.skipif(not kvm_opens(), reason="/dev/kvm does not open"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wb-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def driver() -> Firecracker:
    return Firecracker(FirecrackerConfig(binary=str(await firecracker_binary())))


def make_spec(home: Path, *, touch_mib: int = 0) -> VmSpec:
    vm_id = f"fc-{secrets.token_hex(4)}"
    run_dir = home / vm_id
    run_dir.mkdir()
    kernel = tiny_guest.write(home / "kernel", touch_mib=touch_mib)
    return VmSpec(vm_id, run_dir, Shape(1, 256), kernel, None, "", template_dir=run_dir)


async def counts_past(spec: VmSpec, number: int) -> int:
    return await tiny_guest.counts_past(spec.run_dir / layout.CONSOLE_LOG, number)


# The API's client


@pytest.fixture
async def answering(home: Path) -> AsyncIterator[Callable[[bytes], Awaitable[FirecrackerApi]]]:
    """Makes a client of a VMM that gives every request the same answer; b"" hangs up."""
    spec = make_spec(home)
    process = await VmmProcess.spawn(
        ["sleep", "60"], spec=spec, hypervisor="firecracker", log=home / "log"
    )
    apis: list[FirecrackerApi] = []
    servers: list[asyncio.Server] = []

    async def make(answer: bytes) -> FirecrackerApi:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (await reader.readline()).strip():
                pass
            if answer != b"silence":
                writer.write(answer)
                writer.close()

        servers.append(await asyncio.start_unix_server(serve, home / "api.sock"))
        timeout_s = 0.5 if answer == b"silence" else 60.0
        apis.append(FirecrackerApi(spec.id, home / "api.sock", process, timeout_s=timeout_s))
        return apis[-1]

    try:
        yield make
    finally:
        for api in apis:
            await api.close()
        await process.kill()
        for server in servers:
            server.close()


Answering = Callable[[bytes], Awaitable[FirecrackerApi]]


@pytest.mark.parametrize("status", [b"400 Bad Request", b"302 Found", b"500 Internal"])
async def test_every_status_but_2xx_is_an_error_with_the_fault(
    answering: Answering, status: bytes
) -> None:
    body = b'{"fault_message": "no such drive"}'
    answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    api = await answering(answer)
    with pytest.raises(HypervisorError, match="no such drive"):
        await api.put("/drives/x", {})


async def test_an_api_that_does_not_answer_is_an_error(answering: Answering) -> None:
    api = await answering(b"silence")
    with pytest.raises(HypervisorError, match="did not answer"):
        await api.get("/")


async def test_a_broken_connection_of_a_living_vmm_is_not_a_vm_gone(answering: Answering) -> None:
    api = await answering(b"")
    with pytest.raises(HypervisorError, match="broke") as failure:
        await api.get("/")
    assert not isinstance(failure.value, VmGone)


def test_the_fault_message_is_firecrackers_own() -> None:
    assert fault_message('{"fault_message": "why"}') == "why"
    assert fault_message("no JSON") == "no JSON"
    assert fault_message("[]") == "[]"


# Layout and arguments


def test_boot_arguments_are_added_unless_they_are_set() -> None:
    assert layout.boot_arguments("quiet panic=5") == (
        "quiet panic=5 console=ttyS0 reboot=k pci=off"
    )
    assert layout.boot_arguments("") == "console=ttyS0 reboot=k panic=1 pci=off"


def test_disks_are_links_of_the_same_names_in_every_folder(home: Path) -> None:
    disk = home / "some.img"
    disk.touch()
    specs = [dataclasses.replace(make_spec(home), disks=(Disk(disk),)) for _ in range(2)]
    for spec in specs:
        layout.prepare(spec)
        layout.prepare(spec)  # a folder that was used before is as good
        assert (spec.run_dir / "disk0").resolve() == disk.resolve()


def test_a_qcow2_disk_is_refused(home: Path) -> None:
    disk = home / "some.qcow2"
    disk.touch()
    spec = dataclasses.replace(make_spec(home), disks=(Disk(disk, format=DiskFormat.QCOW2),))
    with pytest.raises(HypervisorError, match="raw disks only"):
        layout.prepare(spec)


def test_the_length_of_socket_paths_counts_bytes_not_characters() -> None:
    layout.check_socket_paths(Path("/" + "x" * 80))
    with pytest.raises(HypervisorError, match="too long"):
        layout.check_socket_paths(Path("/" + "ß" * 80))


# KVM


def test_kvm_that_does_not_open_is_a_reason(home: Path) -> None:
    verdict = kvm.check(home / "nothing")
    assert (verdict.opens, verdict.runs_linux) == (False, False)
    assert "nothing" in verdict.reason


def test_a_file_that_is_no_kvm_does_not_count(home: Path) -> None:
    (home / "kvm").touch()
    assert not kvm.check(home / "kvm").opens


@pytest.mark.firecracker
@pytest.mark.skipif(not kvm_opens(), reason="/dev/kvm does not open")
@pytest.mark.parametrize(("flags", "runs_linux"), [("fpu vmx", True), ("fpu hypervisor", False)])
def test_a_kvm_without_cpu_support_does_not_run_linux(
    home: Path, flags: str, runs_linux: bool
) -> None:
    cpuinfo = home / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    verdict = kvm.check(Path("/dev/kvm"), cpuinfo)
    assert verdict.opens
    assert verdict.runs_linux is runs_linux


@pytest.mark.root
def test_a_user_gets_the_devices_group_only_where_that_opens_it(home: Path) -> None:
    device = home / "kvm"
    device.touch()
    os.chown(device, 0, 108)
    device.chmod(0o660)
    assert kvm.group_for(device, 64_000, 64_000) == 108
    assert kvm.group_for(device, 64_000, 108) is None
    assert kvm.group_for(device, 0, 0) is None
    device.chmod(0o666)
    assert kvm.group_for(device, 64_000, 64_000) is None
    device.chmod(0o600)
    assert isinstance(kvm.group_for(device, 64_000, 64_000), PermissionError)
    os.chown(device, 0, 0)
    device.chmod(0o660)
    assert isinstance(kvm.group_for(device, 64_000, 64_000), PermissionError)


# The real binary


async def test_the_pinned_binary_tells_its_versions() -> None:
    found = await versions(await firecracker_binary())
    assert found.program.count(".") == 2
    assert found.snapshot >= (1, 0, 0)


async def test_a_program_that_is_not_firecracker_is_a_problem() -> None:
    probe = await Firecracker(FirecrackerConfig(binary="true")).probe()
    assert not probe.usable
    assert "prints no version" in probe.problems[0].brief


async def test_a_binary_that_is_nowhere_names_the_setting_too() -> None:
    (missing, *_) = (
        await Firecracker(FirecrackerConfig(binary="/no/firecracker")).probe()
    ).problems
    assert "scripts/fetch_firecracker.py" in missing.resolution
    assert "MANAGER_FIRECRACKER_BINARY" in missing.resolution


class TestOnKvm:
    pytestmark = real_firecracker

    async def test_the_probe_names_version_and_cpu(self, driver: Firecracker) -> None:
        probe = await driver.probe()
        assert probe.usable
        assert probe.host.hypervisor == "firecracker"
        assert probe.host.hypervisor_version
        assert probe.capabilities.runs_linux is bool(cpu_flags() & {"vmx", "svm"})

    async def test_a_refusal_of_firecracker_is_an_error_in_its_words(
        self, driver: Firecracker, home: Path
    ) -> None:
        spec = make_spec(home)
        spec.kernel.write_bytes(b"no kernel")
        with pytest.raises(HypervisorError, match=r"400: .*[Kk]ernel"):
            await driver.boot(spec)

    async def test_a_snapshot_of_a_newer_format_is_refused_with_both_versions(
        self, driver: Firecracker, home: Path
    ) -> None:
        spec = make_spec(home)
        vm = await driver.boot(spec)
        try:
            await vm.pause()
            snapshot = await vm.save()
        finally:
            await vm.kill()
        real = await firecracker_binary()
        old = home / "old-firecracker"
        old.write_text(
            f'#!/bin/sh\n[ "$1" = --snapshot-version ] && echo v1.2.3 && exit\nexec {real} "$@"\n'
        )
        old.chmod(0o755)
        newest = ".".join(map(str, (await versions(real)).snapshot))
        with pytest.raises(RestoreFailed) as refusal:
            await Firecracker(FirecrackerConfig(binary=str(old))).restore(make_spec(home), snapshot)
        assert newest in refusal.value.details
        assert "1.2.3" in refusal.value.details

    async def test_a_snapshot_with_other_disks_is_refused(
        self, driver: Firecracker, home: Path
    ) -> None:
        vm = await driver.boot(make_spec(home))
        try:
            await vm.pause()
            snapshot = await vm.save()
        finally:
            await vm.kill()
        disk = home / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        with pytest.raises(RestoreFailed, match="another machine"):
            await driver.restore(
                dataclasses.replace(make_spec(home), disks=(Disk(disk),)), snapshot
            )

    async def test_a_save_that_fails_leaves_no_file(self, driver: Firecracker, home: Path) -> None:
        spec = dataclasses.replace(make_spec(home), template_dir=home / "nowhere")
        vm = await driver.boot(spec)
        try:
            await vm.pause()
            with pytest.raises(HypervisorError, match="snapshot/create"):
                await vm.save()
        finally:
            await vm.kill()
        assert not list(home.rglob("snapshot.*"))

    async def test_every_clone_has_its_own_vsock_socket(
        self, driver: Firecracker, home: Path
    ) -> None:
        vm = await driver.boot(make_spec(home))
        try:
            await vm.pause()
            snapshot = await vm.save()
        finally:
            await vm.kill()
        clones = [await driver.restore(make_spec(home), snapshot) for _ in range(2)]
        try:
            sockets = [clone.guest_address(1024).vsock_socket for clone in clones]
            assert sockets[0] != sockets[1]
            for path in sockets:
                assert path is not None
                assert path.is_socket()
        finally:
            for clone in clones:
                await clone.kill()

    async def test_memory_that_a_guest_touched_is_in_the_snapshot(
        self, driver: Firecracker, home: Path
    ) -> None:
        spec = make_spec(home, touch_mib=64)
        vm = await driver.boot(spec)
        try:
            await counts_past(spec, 0)
            await vm.pause()
            snapshot = await vm.save()
        finally:
            await vm.kill()
        with snapshot.memory.open("rb") as memory:
            for page in (0, 64 * 256 - 1):
                memory.seek(tiny_guest.TOUCHED_FROM + page * tiny_guest.PAGE)
                assert int.from_bytes(memory.read(4), "little") == 64 * 256 - page

    @pytest.mark.root
    async def test_a_clone_gets_the_tap_of_its_ownNamespace(
        self, driver: Firecracker, home: Path
    ) -> None:
        async with Namespace("tap-a") as first, Namespace("tap-b") as second:
            spec = dataclasses.replace(make_spec(home), nic=first)
            vm = await driver.boot(spec)
            try:
                await counts_past(spec, 0)
                await vm.pause()
                snapshot = await vm.save()
                clone_spec = dataclasses.replace(make_spec(home), nic=second)
                clone = await driver.restore(clone_spec, snapshot)
                try:
                    await counts_past(clone_spec, 1)
                    config = await clone.api.get("/vm/config")
                    assert config["network-interfaces"][0]["host_dev_name"] == "tap-b"
                    namespace = Path(f"/proc/{clone.handle.pid}/ns/net").stat().st_ino
                    assert namespace == second.namespace.stat().st_ino
                finally:
                    await clone.kill()
            finally:
                await vm.kill()


# Fetching


@pytest.mark.slow  # from Python's package index
async def test_fetching_twice_is_quick_and_a_wrong_file_is_replaced(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "fetch_firecracker.py"

    async def fetch() -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), str(tmp_path / "bin")),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    assert "already" not in await fetch()
    assert "already" in await fetch()
    (tmp_path / "bin" / "firecracker").write_bytes(b"damaged")
    assert "already" not in await fetch()
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == ["firecracker", "jailer"]
