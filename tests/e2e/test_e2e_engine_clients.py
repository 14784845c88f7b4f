"""Docker's clients, unmodified, on one engine in a VM: compose, buildx, docker-py, Ryuk, logins."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import PAGE, TOOLS, Archive
from tests.e2e.engine_shells import Shell
from tests.support.client_images import (
    PASSWORD,
    REGISTRY,
    REGISTRY_HOST,
    RYUK,
    USER,
    redis_image,
    registry_image,
    ryuk_image,
)
from tests.support.ports import free_port
from tests.support.vms import Site, eventually

APP = f"{REGISTRY_HOST}/app:1"
COMPOSE = """
services:
  store:
    image: redis:7
    volumes: ["data:/data"]
    healthcheck: {test: [CMD, redis-cli, ping], interval: 1s, timeout: 30s, retries: 60}
  web:
    image: TOOLS
    depends_on:
      store: {condition: service_healthy}
    ports: ["8080", "127.0.0.1::8080"]
  job:
    image: TOOLS
    profiles: [job]
    command: [sh, -c, "echo done; exit 7"]
volumes: {data: {}}
""".replace("TOOLS", TOOLS)

DOCKER_PY = f"""
import json, time, docker
client, began = docker.from_env(), time.time()
said = client.containers.run("{TOOLS}", ["echo", "hello"], remove=True)
web = client.containers.run("{TOOLS}", detach=True, name="py", ports={{"8080/tcp": None}})
code, output = web.exec_run(["sh", "-c", "echo inside; exit 3"])
noisy = client.containers.run("{TOOLS}", ["sh", "-c", "seq 3"], detach=True)
noisy.wait()
web.reload()
print(json.dumps({{
    "said": said.decode(), "exec": [code, output.decode()], "logs": noisy.logs().decode(),
    "port": web.ports["8080/tcp"][0]["HostPort"],
    "events": [[one["Action"], one["Actor"]["Attributes"].get("name")]
               for one in client.events(since=0, until=time.time() + 1, decode=True)],
}}))
"""

KILLED = """
import os, signal
from testcontainers.community.redis import RedisContainer
store = RedisContainer("redis:7").with_name("left-behind")
store.start()
store.get_client().ping()
print(store.get_container_host_ip(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

ROUND_THE_FRONT = r"""
import json, socket
def docker(method, path, body=None):
    data = json.dumps(body or {}).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/docker.sock")
        head = f"{method} {path} HTTP/1.0\r\nHost: d\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[2]
bound = {"PortBindings": {"8080/tcp": [{"HostPort": "NUMBER"}]}}
made = {"Image": "TOOLS", "ExposedPorts": {"8080/tcp": {}}, "HostConfig": bound}
docker("POST", "/containers/create?name=inner", made)
docker("POST", "/containers/inner/start")
print(json.loads(docker("GET", "/containers/inner/json"))["State"]["Running"])
"""


@pytest.fixture(scope="module")
async def shell(
    engine_site: Site, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shell]:
    """With an engine, ``clients``, that has the images."""
    images = {"tools": archive.content, "redis": redis_image(), "ryuk": ryuk_image()}
    user = Shell.at(engine_site, tmp_path_factory.mktemp("clients"), images)
    await user.run("warmboot engine create clients --label team=blue")
    user.first = 'eval "$(warmboot engine env clients)"'
    try:
        await user.run("./with-images true")
        yield user
    finally:
        user.first = ""
        await user.run("warmboot engine rm -f clients")


async def page_at(number: str) -> bytes:
    async def look() -> bytes | None:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{number}/", timeout=60)).content
        except httpx.TransportError:
            return None

    return await eventually(look, "its web server answers")


async def names(shell: Shell) -> list[str]:
    return (await shell.run("docker ps -a --format '{{.Names}}'")).split()


async def described(shell: Shell) -> dict[str, Any]:
    (found,) = json.loads(await shell.run("warmboot engine inspect clients"))
    return dict(found)


async def test_docker_tells_which_engine_it_is_and_nothing_of_what_was_before(
    shell: Shell,
) -> None:
    engine = await described(shell)
    info = json.loads(await shell.run("docker info -f '{{json .}}'"))
    assert (info["ID"], info["Name"]) == (engine["id"], "clients")
    wanted = {f"warmboot.engine-id={engine['id']}", "warmboot.engine=clients", "team=blue"}
    assert wanted == set(info["Labels"])
    await shell.run("docker load -q -i tools.tar")
    told = await shell.run(f"docker events --since 0 --until {time.time() + 1:.3f}")
    assert "warmboot-sandbox" not in told
    assert "warmboot/probe" not in told
    assert " image untag " not in told
    assert " image load " in told, "what its user did is told"
    host = f"docker run --rm --network host {TOOLS} cat /proc/sys/kernel/hostname"
    assert await shell.run(host) == "clients\n"


async def test_compose_runs_two_services_with_a_volume_a_health_check_and_ports(
    shell: Shell,
) -> None:
    (shell.folder / "compose.yaml").write_text(COMPOSE)
    await shell.run("docker compose up -d")
    listed = await shell.run("docker compose ps --format json")
    states = {one["Service"]: one for one in map(json.loads, listed.splitlines())}
    assert {name: one["State"] for name, one in states.items()} == dict.fromkeys(
        ("store", "web"), "running"
    )
    assert states["store"]["Health"] == "healthy"
    assert "Ready to accept connections" in await shell.run("docker compose logs store")
    shown = (await shell.run("docker compose port web 8080")).strip()
    assert await page_at(shown.rpartition(":")[2]) == PAGE
    assert await shell.run("docker compose exec -T store redis-cli incr runs") == "1\n"
    assert "_data" in await shell.run("docker volume ls -q")
    await shell.run("docker compose down -v --timeout 2")
    assert (await names(shell), await shell.run("docker volume ls -q")) == ([], "")


async def test_an_engine_for_one_compose_passes_on_its_exit_code(shell: Shell) -> None:
    (shell.folder / "compose.yaml").write_text(COMPOSE)
    up = "docker compose --profile job up --abort-on-container-exit --no-deps job"
    only = "sh -c 'docker load -q -i tools.tar && exec \"$@\"' sh"
    out = await shell.run(f"warmboot engine run -- {only} {up}", code=7)
    assert "done" in out


async def test_buildx_builds_and_takes_the_second_time_from_its_cache(shell: Shell) -> None:
    (shell.folder / "build").mkdir()
    (shell.folder / "build" / "greeting").write_text("hello\n")
    (shell.folder / "build" / "Dockerfile").write_text(
        f"FROM {TOOLS}\nCOPY greeting /greeting\nRUN cat /greeting > /built\n"
    )
    build = "docker buildx build --progress=plain --load -t built:1 build 2>&1"
    assert "CACHED" not in await shell.run(build)
    assert (await shell.run(build)).count("CACHED") == 2
    assert await shell.run("docker run --rm built:1 cat /built") == "hello\n"


async def test_docker_py_runs_executes_follows_and_finds_ports(shell: Shell) -> None:
    (shell.folder / "client.py").write_text(DOCKER_PY)
    found = json.loads(await shell.run("python client.py"))
    assert found["said"] == "hello\n"
    assert found["exec"] == [3, "inside\n"]
    assert found["logs"] == "1\n2\n3\n"
    assert await page_at(found["port"]) == PAGE
    assert ["start", "py"] in found["events"]
    await shell.run("docker rm -f $(docker ps -aq)")


async def test_ryuk_removes_what_a_killed_run_of_testcontainers_has_left(shell: Shell) -> None:
    """With nothing but ``DOCKER_HOST``: what it mounts is the socket by its name on this host."""
    (shell.folder / "killed.py").write_text(KILLED)
    ryuk = f"RYUK_CONTAINER_IMAGE={RYUK} RYUK_RECONNECTION_TIMEOUT=0.1s"
    only = "env -u TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE"
    out = await shell.run(f"{ryuk} {only} python killed.py || exit $?", code=137)
    assert out.strip()

    async def none_left() -> bool:
        return await names(shell) == []

    await eventually(none_left, "Ryuk removes its session's containers, and ends")


async def test_ports_of_a_container_made_round_the_front_follow(shell: Shell) -> None:
    number = str(free_port())
    script = ROUND_THE_FRONT.replace("NUMBER", number).replace("TOOLS", TOOLS)
    (shell.folder / "inner.py").write_text(script)
    mount = "-v /var/run/docker.sock:/docker.sock"
    interpreter = f"$(docker image inspect -f '{{{{index .Config.Cmd 0}}}}' {RYUK})"
    out = await shell.run(
        f'docker run --rm -i {mount} {RYUK} {interpreter} -I -S -c "$(cat inner.py)"'
    )
    assert out == "True\n"
    assert await page_at(number) == PAGE
    await shell.run("docker rm -f inner")


@pytest.mark.registry
async def test_an_engine_uses_a_login_that_its_client_does_not_have(shell: Shell) -> None:
    """docker's own configuration has none, and warmboot is given another one.

    BuildKit asks its client for logins: there the client's own count.
    """
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (shell.folder / "mine").mkdir()
    (shell.folder / "mine" / "config.json").write_text(
        json.dumps({"auths": {REGISTRY_HOST: {"auth": secret}}})
    )
    (shell.folder / "mine" / "cli-plugins").symlink_to(shell.folder / ".docker" / "cli-plugins")
    (shell.folder / "private").mkdir()
    (shell.folder / "private" / "Dockerfile").write_text(f"FROM {APP}\nLABEL built=1\n")
    (shell.folder / "private" / "registry.image").write_bytes(registry_image())
    await shell.run(
        "docker load -q -i private/registry.image && rm private/registry.image\n"
        f"docker run -d --name registry --network host {REGISTRY}\n"
        f"docker tag {TOOLS} {APP}"
    )

    async def refused() -> bool:
        return "no basic auth" in await shell.run(f"docker push {APP} 2>&1 || true")

    await eventually(refused, "the registry asks who it is")
    await shell.run("DOCKER_CONFIG=$PWD/mine warmboot engine login clients")
    again = f"docker rmi -f {APP}"
    await shell.run(
        f"docker push {APP}\n{again}\ndocker pull {APP}\n{again}\n"
        "DOCKER_BUILDKIT=0 docker build -t built:2 private\n"
    )
    without = await shell.run("docker build --pull -t built:3 private 2>&1", code=1)
    assert "401 Unauthorized" in without
    await shell.run(
        "DOCKER_CONFIG=$PWD/mine docker build --pull -t built:3 private\n"
        "docker image inspect built:3\n"
        "docker rm -f registry"
    )


async def test_started_again_it_runs_what_ran_as_after_a_reboot(shell: Shell) -> None:
    first = "docker run -d --restart"
    await shell.run(
        f"{first} unless-stopped --name goes-on -p 8080 {TOOLS}\n"
        f"{first} always --name always -p 9090 {TOOLS} sleep 1000\n"
        f"{first} unless-stopped --name stopped {TOOLS} sleep 1000\n"
        f"docker run -d --name once {TOOLS} sleep 1000\n"
        "docker stop -t 0 stopped\n"
        "ports=$(docker port always; docker port goes-on)\n"
        "warmboot engine stop -t 0 clients\n"
        "warmboot engine start clients\n"
        # At once: they are published when it is said to run, so nobody else can have them.
        "for port in $(echo \"$ports\" | sed 's/.*://' | sort -u); do\n"
        "    taken=\"import socket; socket.socket().bind(('127.0.0.1', $port))\"\n"
        '    if python -c "$taken" 2>/dev/null; then echo "$port is free"; exit 9; fi\n'
        "done"
    )
    running = (await shell.run("docker ps --format '{{.Names}}'")).split()
    assert sorted(running) == ["always", "goes-on"]
    shown = (await shell.run("docker port goes-on 8080")).split()[0]
    assert await page_at(shown.rpartition(":")[2]) == PAGE
    await shell.run("docker rm -f $(docker ps -aq)")
