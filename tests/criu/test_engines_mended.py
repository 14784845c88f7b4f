"""What real engines lack is mended while they run: options, CRIU and the runtime of workers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.private_dockerd import BARE_PATH
from tests.criu.conftest import COUNTER
from tests.support.dockerd import CRIU_WRAPPER, PrivateDockerd, private_dockerd
from tests.support.eventually import eventually, until
from tests.support.images import counter_image
from tests.support.preflights import named, preflight

from warmboot.criu.binary import SEARCH_PATH, check_criu, criu_version
from warmboot.criu.runtime import dump as dumping
from warmboot.criu.setup import runtime_setup, verification
from warmboot.criu.setup.findings import can_save_other_users
from warmboot.criu.setup.install import install_criu
from warmboot.criu.setup.install_runtime import install_runtime
from warmboot.criu.setup.remove_runtime import remove_runtime
from warmboot.criu.setup.settings_files import (
    enable_tcp_established,
)
from warmboot.criu.setup.verification import verify
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointError, HostError, InUse, NotSupported, WarmbootError
from warmboot.model.worker import WorkerSpec

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_a_plain_engine_is_refused_then_fixed_then_verified(tmp_path: Path) -> None:
    asked = tmp_path / "asked"

    async def restart_when_asked(engine: PrivateDockerd) -> None:
        await until(asked.exists, timeout_s=600)  # another program makes it
        await engine.stop()
        await engine.start()

    async with private_dockerd(experimental=False) as plain:
        machine = replace(
            preflight(tmp_path, plain.socket),
            daemon_json=plain.config,
            restart_command=("touch", str(asked)),
        )
        assert not named(await machine.check())["experimental"].ok
        async with DockerEngine(plain.socket) as engine:
            with pytest.raises(NotSupported, match="experimental"):
                await verify(engine)
        assert "set experimental" in (await machine.fix())[-1].what
        assert await machine.fix() == (), "what is only left to do is the restart"
        async with asyncio.timeout(60), asyncio.TaskGroup() as restarting:
            restarting.create_task(restart_when_asked(plain))
            changes = await machine.fix(restart_engine=True)
        assert [change.what for change in changes] == [f"restarted the engine (touch {asked})"]
        assert named(await machine.check())["experimental"].ok
        async with DockerEngine(plain.socket) as engine:
            verified = await verify(engine)
        assert verified.count_after == verified.count_before + 1
        assert await machine.fix(restart_engine=True) == ()


async def test_an_engine_without_criu_says_that_it_is_missing() -> None:
    async with private_dockerd() as bare:
        await bare.stop()
        await bare.start(criu=False)
        async with DockerEngine(bare.socket) as engine:
            with pytest.raises(CheckpointError) as caught:
                await verify(engine)
    assert "CRIU" in caught.value.resolution


async def test_criu_is_installed_under_a_prefix_of_its_own(tmp_path: Path) -> None:
    prefix, wrapper = tmp_path / "prefix", tmp_path / "bin" / "criu"
    installed = await install_criu(prefix, wrapper, from_distribution=False, system_path=BARE_PATH)
    assert installed.changed
    assert (await criu_version(wrapper)) == installed.version
    report = await check_criu(wrapper, "1")
    assert report.looks_good
    assert report.missing == {}
    again = await install_criu(prefix, wrapper, from_distribution=False, system_path=BARE_PATH)
    assert (again.changed, again.binary) == (False, wrapper)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "prefix"]


async def test_when_no_suite_has_one_all_that_was_tried_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        await install_criu(
            tmp_path / "prefix",
            tmp_path / "criu",
            suites=("no-such-suite",),
            kernel="99.0",
            system_path=BARE_PATH,
        )
    assert "no-such-suite" in caught.value.details
    assert list(tmp_path.iterdir()) == []


async def test_the_runtime_is_given_to_an_engine_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "opt" / "warmboot-runtime"
    async with private_dockerd(experimental=False) as plain:
        machine = replace(
            preflight(tmp_path, plain.socket), daemon_json=plain.config, runtime=program
        )
        enable_tcp_established(machine.runc_conf)
        before = named(await machine.check())
        assert (before["runtime"].ok, before["runtime"].fixable) == (False, True)
        async with DockerEngine(plain.socket) as engine:
            await engine.load_image(counter_image(COUNTER))
            spec = WorkerSpec("goes-on", COUNTER)
            container = await engine.create_worker(spec, extra_environment={})
            await engine.start(container)
            pid = (await engine.inspect(container)).pid
            changes = await machine.fix()
            assert all(change.ok for change in changes), changes
            assert [change.what.split()[0] for change in changes] == [
                "installed",
                "added",
                "reloaded",
            ]
            assert (await engine.inspect(container)).pid == pid
            assert [one for one in await machine.check() if not one.ok] == []
            assert await machine.fix() == ()
            verified = await verify(engine, f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}")
            assert verified.count_after == verified.count_before + 1
            assert verified.lock
            assert verified.user == ("nobody" if can_save_other_users() else "root")
            monkeypatch.setattr(dumping, "OPTIONS", ("tcp-established", "link-remap"))
            with pytest.raises(WarmbootError) as caught:
                await verify(engine, f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}")
            assert "lock" in str(caught.value), "it did hold one"
            monkeypatch.undo()
            if not can_save_other_users():
                monkeypatch.setattr(verification, "can_save_other_users", lambda: True)
                with pytest.raises(WarmbootError) as caught:
                    await verify(engine, f"{CRIU_WRAPPER.parent}:{SEARCH_PATH}")
                assert "rlimit" in caught.value.details, "it was not root's"
            await plain.stop()
            await plain.start()
            assert (await engine.facts()).worker_runtime == "warmboot"


async def test_a_runtime_that_is_gone_is_installed_again(tmp_path: Path) -> None:
    program = tmp_path / "warmboot-runtime"
    runtimes = {"warmboot": {"path": str(program)}}
    async with private_dockerd(experimental=False, runtimes=runtimes) as plain:
        machine = replace(
            preflight(tmp_path, plain.socket), daemon_json=plain.config, runtime=program
        )
        enable_tcp_established(machine.runc_conf)
        assert not named(await machine.check())["runtime"].ok
        assert [change.what.split()[0] for change in await machine.fix()] == ["installed"]
        assert named(await machine.check())["runtime"].ok


async def test_where_dockerds_command_line_has_runtimes_daemon_json_gets_none(
    tmp_path: Path,
) -> None:
    """dockerd would not start with both."""
    program = tmp_path / "warmboot-runtime"
    arguments = ("--add-runtime", "other=/bin/true")
    async with private_dockerd(arguments=arguments) as plain:
        before = plain.config.read_text()
        machine = replace(
            preflight(tmp_path, plain.socket), daemon_json=plain.config, runtime=program
        )
        found = named(await machine.check())["runtime"]
        assert (found.ok, found.fixable) == (False, False)
        assert f"--add-runtime warmboot={program}" in found.remedy
        changed = [change.what for change in await machine.fix()]
        assert changed == [f"added tcp-established to {machine.runc_conf}"]
        assert (plain.config.read_text(), program.exists()) == (before, False)


async def test_the_runtime_is_not_removed_while_a_container_or_the_engine_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "opt" / "warmboot-runtime"
    await install_runtime(program)
    runtimes = {"warmboot": {"path": str(program)}, "other": {"path": "/bin/true"}}
    default = {"default-runtime": "warmboot"}
    async with private_dockerd(experimental=False, runtimes=runtimes, **default) as plain:
        before = plain.config.read_text()
        async with DockerEngine(plain.socket) as engine:

            async def forgotten() -> bool:
                return (await engine.facts()).default_runtime != "warmboot"

            await engine.load_image(counter_image(COUNTER))
            spec = WorkerSpec("in-the-way", COUNTER)
            container = await engine.create_worker(spec, extra_environment={}, runtime="warmboot")
            with pytest.raises(InUse) as caught:
                await remove_runtime(plain.socket, plain.config, program, tmp_path / "none")
            assert "in-the-way" in caught.value.details
            assert "warmboot worker rm" in caught.value.resolution
            assert program.exists()
            assert plain.config.read_text() == before
            await engine.remove(container)
            with pytest.raises(InUse, match="default") as caught:
                await remove_runtime(plain.socket, plain.config, program, tmp_path / "none")
            assert f"default-runtime in {plain.config}" in caught.value.details
            assert plain.config.read_text() == before
            settings = {**json.loads(before), "default-runtime": "runc"}
            plain.config.write_text(json.dumps(settings))
            process = runtime_setup.process_at(plain.socket)
            assert process is not None
            runtime_setup.reload(process.pid)
            await eventually(forgotten, "the engine has another default runtime", 30)
            plain.config.write_text(json.dumps({**settings, "default-runtime": "none-such"}))
            monkeypatch.setattr(runtime_setup, "RELOAD_TIMEOUT_S", 0.5)
            with pytest.raises(HostError, match="still lists"):
                await remove_runtime(plain.socket, plain.config, program, tmp_path / "none")
            assert "warmboot" in json.loads(plain.config.read_text())["runtimes"]
            monkeypatch.undo()
            plain.config.write_text(json.dumps(settings))
            changes = await remove_runtime(plain.socket, plain.config, program, tmp_path / "none")
            assert [change.what.split()[0] for change in changes] == [
                "removed",
                "reloaded",
                "removed",
            ]
            facts = await engine.facts()
            assert "warmboot" not in facts.runtimes
            assert "other" in facts.runtimes
            assert not program.parent.exists()
            nothing = await remove_runtime(plain.socket, plain.config, program, tmp_path / "none")
            assert nothing == []
