"""What a guest said on its way is there for the one who asks why it did not come up."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.managers import Lab, Manager

from warmboot.host.guest.guest_link import Claimed, Identity, Sent
from warmboot.host.vm.boot_logs import BootLogs, last_lines
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState

SAID = b"simulated VM: booted\n"


async def test_a_cold_guests_console_is_shown(manager: Manager) -> None:
    await manager.run()
    assert await manager.containers.boot_log("web") == SAID


async def test_a_boot_that_fails_says_what_its_guest_said_last_and_keeps_it(
    place: Lab,
) -> None:
    async with place.manager(cold_boot_timeout_s=4) as manager:
        place.set(agent_silent="boot")
        container = await manager.run()
        assert container.state is ContainerState.FAILED
        assert container.error is not None
        assert "simulated VM: booted" in container.error["details"]
        assert "warmboot logs --boot web" in container.error["resolution"]
        assert "MANAGER_COLD_BOOT_TIMEOUT_S" in container.error["resolution"]
        assert list((place.storage / "vms").iterdir()) == [], "the VM's folder is gone"
        assert await manager.containers.boot_log("web") == SAID
        await manager.containers.delete("web")
        assert list((place.storage / "boot-logs").iterdir()) == []


async def test_it_outlives_a_vm_that_died(manager: Manager) -> None:
    container = await manager.run()
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.wait(str(container.id), Until.EXITED)
    assert await manager.containers.boot_log("web") == SAID


async def test_the_next_start_removes_logs_of_nobody(place: Lab) -> None:
    async with place.manager():
        pass
    folder = place.storage / "boot-logs"
    folder.mkdir(exist_ok=True)
    (folder / f"{uuid4()}.log").write_bytes(b"x")
    async with place.manager():
        assert list(folder.iterdir()) == []


async def test_the_setting_is_the_limit_for_the_agent_too(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    real = manager.host.vms.claim

    async def note(
        vm_id: str, identity: Identity, timeout_s: float, docker_wait_s: float, on_sent: Sent
    ) -> Claimed:
        limits.append(timeout_s)
        return await real(vm_id, identity, timeout_s, docker_wait_s, on_sent)

    monkeypatch.setattr(manager.host.vms, "claim", note)
    await manager.run()
    assert limits == [300.0]


async def test_links_are_not_followed_and_no_more_than_the_end_is_read(tmp_path: Path) -> None:
    logs = BootLogs(tmp_path / "kept", tmp_path)
    (tmp_path / "vm").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "vm" / "console.log").symlink_to(tmp_path / "secret")
    assert await logs.of_vm("vm") == b""
    (tmp_path / "vm" / "console.log").unlink()
    os.mkfifo(tmp_path / "vm" / "console.log")
    assert await logs.of_vm("vm") == b""
    (tmp_path / "vm" / "console.log").unlink()
    (tmp_path / "vm" / "console.log").write_bytes(b"a" * (1 << 20) + b"end")
    said = await logs.of_vm("vm")
    assert len(said) == 256 << 10
    assert said.endswith(b"end")


async def test_what_came_before_the_console_is_shown_first(tmp_path: Path) -> None:
    logs = BootLogs(tmp_path / "kept", tmp_path)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "serial.log").write_bytes(b"early\r\n")
    (tmp_path / "vm" / "console.log").write_bytes(b"later\r\n")
    assert await logs.of_vm("vm") == b"early\r\nlater\r\n"


def test_an_error_quotes_the_last_lines_only_and_nothing_that_a_terminal_obeys() -> None:
    text = b"".join(b"line %d\r\n" % number for number in range(100)) + b"\x1b[2Jred\xff\n"
    shown = last_lines(text).split("\n")
    assert shown[-1] == "[2Jred\N{REPLACEMENT CHARACTER}"
    assert shown[-2] == "line 99"
    assert len(shown) == 8
