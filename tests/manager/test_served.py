"""`warmboot serve` as root has it: port 18080 in a network of its own, and the Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.managers import Lab, image_folder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

START_TIMEOUT_S = 60.0
GROUP = 54321
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
AS_MEMBER = f"setpriv --reuid=65534 --regid={GROUP} --clear-groups"
WARMBOOT = f"{shlex.quote(sys.executable)} -m warmboot.cli"
# As they stand in the specification; {id} is put in.
SPECIFIED = """
curl http://localhost:18080/v1/runtime-snapshots

curl -X POST http://localhost:18080/v1/runtime-snapshots \\
  -H "Content-Type: application/json" \\
  -d '{"runtime_image_id": "your-runtime-image-uuid"}'

curl http://localhost:18080/v1/runtime-snapshots/{id}

curl -X POST http://localhost:18080/v1/runtime-snapshots/{id}/rebuild

curl -X DELETE http://localhost:18080/v1/runtime-snapshots/{id}

curl -X POST http://localhost:18080/v1/runtime-snapshots \\
  -d '{"runtime_image_id": "uuid"}'
"""


@dataclass
class Site:
    """A network namespace, in which a manager serves and others call it."""

    place: Lab
    holder: asyncio.subprocess.Process
    manager_is: str = ""
    manager: asyncio.subprocess.Process | None = None

    @property
    def socket(self) -> Path:
        return self.place.root / "m.sock"

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("WARMBOOT_", "MANAGER_"))}
        return {
            **clean,
            "MANAGER_STORAGE_ROOT": str(self.place.storage),
            "MANAGER_HYPERVISOR": "simulated",
            "MANAGER_SIMULATION": str(self.place.simulation),
            "MANAGER_SOCKET": str(self.socket),
            "MANAGER_SOCKET_GROUP": "warmboot" if self.manager_is else str(GROUP),
            "MANAGER_DISK_FLOOR_MIB": "0",
            "MANAGER_DOCKER_HOST": f"unix://{self.place.root}/no-docker.sock",
        }

    async def _begin(self, script: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "sh", "-c", script),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, script: str, code: int = 0) -> str:
        process = await self._begin(script)
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == code, f"{script}: {out.decode()}"
        return out.decode()

    async def serve(self) -> None:
        self.manager = await self._begin(
            f"exec {self.manager_is} {WARMBOOT} serve 2> {self.place.root}/log"
        )
        ready = "curl -s --retry 600 --retry-connrefused --retry-delay 0 --retry-max-time 50"
        async with asyncio.timeout(START_TIMEOUT_S):
            assert json.loads(await self.run(f"{ready} http://localhost:18080/readyz")) == {
                "ok": True
            }

    async def kill(self) -> None:
        if self.manager is not None and self.manager.returncode is None:
            self.manager.send_signal(signal.SIGKILL)
            async with asyncio.timeout(60):
                await self.manager.wait()


@pytest.fixture
async def site(place: Lab) -> AsyncIterator[Site]:
    async with sited(place) as it:
        yield it


@contextlib.asynccontextmanager
async def sited(place: Lab, manager_is: str = "") -> AsyncIterator[Site]:
    holder = await asyncio.create_subprocess_exec(
        *("unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    async with asyncio.timeout(60):
        assert await holder.stdout.readline() == b"up\n"
    place.root.chmod(0o755)
    site = Site(place, holder, manager_is)
    try:
        await site.serve()
        yield site
    finally:
        await site.kill()
        place.kill_everything()
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.wait()


async def registered(site: Site) -> str:
    body = json.dumps(
        {"name": "default", "path": str(await image_folder()), "build_snapshot": False}
    )
    post = f"curl -s http://localhost:18080/v1/runtime-images -d '{body}'"
    return str(json.loads(await site.run(post))["id"])


async def test_the_specification_s_lines_work_for_root(site: Site) -> None:
    image = await registered(site)
    lines = [line.strip() for line in SPECIFIED.split("\n\n")]
    told: list[dict[str, Any]] = []
    snapshot = ""
    for line in lines:
        line = line.replace("your-runtime-image-uuid", image).replace('"uuid"', f'"{image}"')
        answer = json.loads(await site.run(line.replace("{id}", snapshot) + " 2> /dev/null"))
        told.append(answer)
        snapshot = str(answer.get("id", snapshot))  # after a rebuild that of its successor
        if "POST" in line:
            waited = f"http://localhost:18080/v1/runtime-snapshots/{answer['id']}"
            await site.run(
                f'until curl -s {waited} | grep -q \'"state":"ready"\'; do sleep 0.2; done'
            )
    assert "items" in told[0]
    assert told[2]["item"]["id"] == told[1]["id"]
    assert told[4] == {"ok": True}
    assert all("id" in told[at] for at in (1, 3, 5))


async def test_another_user_gets_a_reason_and_posts_nothing(site: Site) -> None:
    worker = json.dumps({"image": "x", "name": "evil", "mounts": [], "command": ["sh"]})
    refused = json.loads(
        await site.run(f"{AS_NOBODY} curl -s http://localhost:18080/v1/workers -d '{worker}'")
    )
    assert (refused["status"], refused["detail"]) == (401, "the connection belongs to uid 65534")
    assert str(site.socket) in refused["resolution"]
    for path in ("workers", "containers"):
        assert json.loads(await site.run(f"curl -s http://localhost:18080/v1/{path}")) == {
            "items": []
        }


async def test_the_command_line_is_for_members_and_tells_others_how_to_be_one(site: Site) -> None:
    assert "CONTAINER ID" in await site.run(f"{AS_MEMBER} {WARMBOOT} ps")
    refused = await site.run(f"{AS_NOBODY} {WARMBOOT} ps", code=1)
    assert f"you may not use the manager's socket {site.socket}" in refused
    assert f"usermod -aG {GROUP} $USER" in refused


async def test_members_find_the_machine_s_socket_beside_a_storage_root_that_is_closed_to_them(
    site: Site,
) -> None:
    usual = f"mkdir /run/warmboot && ln -s {site.socket} /run/warmboot/18080.sock"
    own_run = "unshare --mount sh -c 'mount -t tmpfs none /run && {}'"

    async def listed_by(who: str, code: int) -> str:
        as_who = f"{usual} && exec env -u MANAGER_SOCKET {who} {WARMBOOT} ps"
        return await site.run(own_run.format(as_who), code)

    assert "CONTAINER ID" in await listed_by(AS_MEMBER, 0)
    assert "you may not use the manager's socket" in await listed_by(AS_NOBODY, 1)


async def test_a_socket_in_a_closed_folder_is_told_as_one(site: Site) -> None:
    closed = site.place.storage / "m.sock"
    told = await site.run(f"MANAGER_SOCKET={closed} {AS_NOBODY} {WARMBOOT} ps", code=1)
    assert told.startswith(f"error: you may not use the manager's socket {closed}\n")


async def test_doctor_tells_of_the_socket_and_its_group(site: Site) -> None:
    checks = json.loads(await site.run("curl -s http://localhost:18080/v1/doctor"))["items"]
    (check,) = [one for one in checks if one["name"] == "socket"]
    assert check["ok"]
    assert f"{site.socket}, for root and the group {GROUP}" in check["summary"]


async def test_a_killed_manager_s_socket_is_its_successor_s(site: Site) -> None:
    left = site.socket.stat().st_ino
    await site.kill()
    assert site.socket.stat().st_ino == left
    await site.serve()
    assert site.socket.stat().st_ino != left
    assert "CONTAINER ID" in await site.run(f"{WARMBOOT} ps")


async def test_a_key_is_the_same_caller_s_by_either_door(site: Site) -> None:
    image = await registered(site)
    key = f"-H 'Idempotency-Key: {uuid4()}'"
    body = f"""-d '{{"runtime_image_id": "{image}"}}'"""
    first = await site.run(f"curl -s http://localhost:18080/v1/runtime-snapshots {key} {body}")
    again = await site.run(
        f"{AS_MEMBER} curl -si --unix-socket {site.socket} http://localhost/v1/runtime-snapshots "
        f"{key} {body}"
    )
    assert again.endswith(first)
    assert "idempotent-replayed: true" in again


async def test_a_user_s_own_manager_is_that_user_s_and_root_s_by_the_socket(place: Lab) -> None:
    os.chown(place.root, 65534, 65534)
    async with sited(place, AS_NOBODY) as site:
        ask = "curl -s -w ' %{http_code}' http://localhost:18080/v1/containers"
        by_socket = f"{ask} --unix-socket {site.socket}"
        own_namespace = "setpriv --reuid=65534 --regid=65534 --clear-groups unshare -U"
        stranger = "setpriv --reuid=65533 --regid=65533 --clear-groups"
        for let_in in (f"{AS_NOBODY} {ask}", f"{AS_NOBODY} {by_socket}", by_socket):
            assert (await site.run(let_in)).endswith(" 200"), let_in
        for refused in (ask, f"{stranger} {ask}", f"{own_namespace} {ask}"):
            told = await site.run(refused)
            assert told.endswith(" 401"), refused
            assert f"use {site.socket} as the manager's user or root" in told
        assert "belongs to uid 0" in await site.run(ask)
        await site.run(f"{stranger} {by_socket}", code=7)  # it cannot connect
