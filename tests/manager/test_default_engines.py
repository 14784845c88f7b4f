"""Users' default engines on the simulated hypervisor: made and started by who asks for them."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
from pathlib import Path

import httpx
import pytest
from tests.support.engines import docker_at, engines_of
from tests.support.managers import Lab, Manager, eventually, front_pids

from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.users.named_users import named_users
from warmboot.manager.protocols import EngineUntil
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.engine import EngineSpec, EngineState

ME = pwd.getpwuid(os.geteuid())
NAME = f"user-{ME.pw_name}"
SETTING = {"engine_users": ME.pw_name}


def path_of(place: Lab) -> Path:
    return place.storage / "run" / "users" / f"{ME.pw_uid}.sock"


async def status(place: Lab, target: str = "/containers/json") -> tuple[int, str]:
    async with docker_at(str(path_of(place))) as client:
        answer = await client.get(target)
        return answer.status_code, answer.text.strip()


async def clear(m: Manager) -> None:
    for engine in await engines_of(m).list():
        await engines_of(m).delete(str(engine.id), force=True)


async def test_two_who_ask_first_make_one_engine(place: Lab) -> None:
    async with place.manager(**SETTING) as m:
        await m.snapshot()
        assert oct(path_of(place).stat().st_mode & 0o777) == "0o660"
        assert await engines_of(m).list() == ()
        both = await asyncio.gather(status(place), status(place))
        assert set(both) == {(200, "[]")}
        (engine,) = await engines_of(m).list()
        assert (engine.name, engine.spec.owner_uid) == (NAME, ME.pw_uid)
        await clear(m)


async def test_a_stopped_one_is_started_a_parked_one_wakes_and_a_removed_one_is_made_again(
    place: Lab,
) -> None:
    async with place.manager(**SETTING) as m, docker_at(str(path_of(place))) as client:
        await m.image()
        assert (await client.get("/containers/json")).status_code == 200
        (first,) = await engines_of(m).list()
        await engines_of(m).stop(NAME)
        assert (await client.get("/containers/json")).status_code == 200, "the same connection"
        started = await engines_of(m).get(NAME)
        assert (started.id, started.state) == (first.id, EngineState.RUNNING)
        await engines_of(m).park(NAME)
        assert (await client.get("/containers/json")).status_code == 200
        woken = await engines_of(m).get(NAME)
        assert (woken.id, woken.state) == (first.id, EngineState.RUNNING)
        await engines_of(m).delete(NAME, force=True)
        assert (await client.get("/containers/json")).status_code == 200
        assert (await engines_of(m).get(NAME)).id != first.id
        await clear(m)


async def test_a_greeting_does_not_wait_for_the_ports_of_what_comes_up(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = asyncio.Event()

    async def publish(*_: object) -> list[str]:
        await published.wait()
        return []

    async with place.manager(**SETTING) as m:
        await m.image()
        assert await status(place) == (200, "[]")
        await engines_of(m).stop(NAME)
        monkeypatch.setattr(EnginePorts, "publish_running", publish)
        assert (await status(place, "/_ping"))[0] == 200
        listed = asyncio.create_task(status(place))
        assert not (await engines_of(m).get(NAME)).handed_over
        assert not listed.done()
        published.set()
        assert await listed == (200, "[]")
        assert (await engines_of(m).get(NAME)).handed_over
        await clear(m)


async def test_one_whose_vm_died_is_started(place: Lab) -> None:
    async with place.manager(**SETTING) as m:
        await m.image()
        assert await status(place) == (200, "[]")
        (engine,) = await engines_of(m).list()
        (record,) = await m.store.vms.of_owner(engine.id)
        assert record.handle is not None
        os.kill(record.handle.pid, 9)
        await engines_of(m).wait(NAME, EngineUntil.STOPPED, 60)
        assert await status(place) == (200, "[]")
        await clear(m)


async def test_why_it_does_not_come_up_is_said_in_dockers_form(place: Lab) -> None:
    async with place.manager(**SETTING) as m:
        code, said = await status(place)
        assert (code, "there is no runtime image" in said) == (503, True), said
        await m.image()
        place.set(fail_boot=True)
        code, said = await status(place)
        assert (code, f"the engine {NAME} does not run" in said) == (503, True), said
        place.set(fail_boot=False)
        assert await status(place) == (200, "[]")
        await clear(m)


async def test_somebody_elses_engine_of_that_name_is_not_given(place: Lab) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket to somebody else")
    async with place.manager(**SETTING) as m:
        await m.image()
        engine_id = await engines_of(m).create(EngineSpec(NAME, 65534))
        await engines_of(m).wait(str(engine_id), EngineUntil.RUNNING, 60)
        code, said = await status(place)
        assert (code, "belongs to the user 65534" in said) == (503, True), said
        await clear(m)


async def test_a_default_socket_is_its_users(place: Lab) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket to somebody else")
    nobody = pwd.getpwnam("nobody")
    async with place.manager(engine_users="nobody"):
        found = (path_of(place).parent / f"{nobody.pw_uid}.sock").stat()
        assert (found.st_uid, oct(found.st_mode & 0o777)) == (nobody.pw_uid, "0o660")
        assert not path_of(place).exists()


async def test_the_socket_outlives_the_manager_and_goes_with_the_setting(place: Lab) -> None:
    async with place.manager(**SETTING) as m:
        await m.image()
        assert await status(place) == (200, "[]")
    assert await status(place) == (200, "[]"), "what runs needs no manager"
    async with place.manager(**SETTING) as m:
        await engines_of(m).stop(NAME)
        assert await status(place) == (200, "[]")
    async with place.manager() as m:
        assert not path_of(place).exists()
        await clear(m)
    await eventually(lambda: asyncio.to_thread(lambda: front_pids(place.storage) == []))
    assert not (place.storage / "run").exists()


async def test_the_socket_outlives_the_manager_before_there_is_an_engine(place: Lab) -> None:
    async with place.manager(**SETTING):
        (front,) = front_pids(place.storage)
    async with place.manager(**SETTING) as m:
        assert front_pids(place.storage) == [front]
        await m.image()
        assert await status(place) == (200, "[]")
        await clear(m)


async def test_without_the_setting_there_is_no_front(place: Lab) -> None:
    async with place.manager():
        assert front_pids(place.storage) == []


async def test_a_front_that_dies_is_started_anew_with_the_default_sockets(place: Lab) -> None:
    async with place.manager(**SETTING) as m:
        await m.image()
        (front,) = front_pids(place.storage)
        os.kill(front, 9)
        await eventually(
            lambda: asyncio.to_thread(lambda: front_pids(place.storage) not in ([], [front]))
        )

        async def answers() -> bool:
            try:
                return await status(place) == (200, "[]")
            except httpx.TransportError:
                return False

        await eventually(answers)
        await clear(m)


def test_users_are_named_by_name_by_uid_and_as_a_group() -> None:
    group = grp.getgrgid(ME.pw_gid).gr_name
    me = {ME.pw_uid: ME.pw_name}
    assert named_users(f" {ME.pw_name}, {ME.pw_uid},", "X") == me
    assert named_users("", "X") == {}
    if os.geteuid() == 0:
        assert me.items() <= named_users(f"@{group}", "X").items()


@pytest.mark.parametrize("names", ["no-such-user-here", "@no-such-group-here", "4294967290"])
def test_who_does_not_exist_is_refused_in_words(names: str) -> None:
    with pytest.raises(InvalidRequest, match="does not exist on this machine"):
        named_users(names, "MANAGER_ENGINE_USERS")
