"""The third part of the demo: a worker that counts is paused, is gone, and then counts on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from rich.console import Console
from testbed.private_dockerd import private_dockerd, tcp_established

from demo.manager import manager, state_root
from demo.shell import Shell
from warmboot.client import Client
from warmboot.client.worker_results import Worker
from warmboot.docker.engine import DockerEngine
from warmboot.docker.tiny_image import busybox_image, static_busybox

IMAGE = "warmboot-demo/counter:1"
NAME = "counter"
LINE_TIMEOUT_S = 30.0
REPORTS_WAIT_S = 10.0
# Plain HTTP, so that it can be read here; `warmboot.worker` does it with retries and keys.
SCRIPT = """
secret=$(head -c 6 /dev/urandom | od -An -tx1 | tr -d ' ')
address=${WARMBOOT_URL#http://}
i=0
while true; do
  i=$((i+1))
  echo "secret $secret, count $i"
  if [ $((i % 10)) = 0 ]; then
    body="{\\"kind\\": \\"progress\\", \\"data\\": {\\"count\\": $i}}"
    printf 'POST /v1/workers/%s/events HTTP/1.1\\r\\nHost: %s\\r\\nAuthorization: Bearer %s\\r\\n' \
      "$WARMBOOT_WORKER_ID" "$address" "$WARMBOOT_TOKEN" > /request
    printf 'Content-Type: application/json\\r\\nContent-Length: %s\\r\\nConnection: close\\r\\n' \
      ${#body} >> /request
    printf '\\r\\n%s' "$body" >> /request
    nc ${address%:*} ${address#*:} < /request > /dev/null
  fi
  sleep 0.1
done
"""


async def show(console: Console) -> None:
    """On a Docker engine and a manager of its own, started here and stopped at the end."""
    busybox = static_busybox()
    if busybox is None:
        raise SystemExit("a static busybox is needed: run `make setup`")
    async with _setting(console) as (client, engine, url):
        shell = Shell(console, url)
        await engine.load_image(busybox_image(IMAGE, busybox, ["sh"]))
        shell.show(f"warmboot worker run --name {NAME} {IMAGE} sh -c '…'")
        await client.workers.create(image=IMAGE, name=NAME, command=["sh", "-c", SCRIPT])
        worker = await client.workers.wait(NAME, "settled", LINE_TIMEOUT_S)
        if worker.state != "running":
            raise SystemExit(f"the worker does not run: {worker.error}")
        try:
            await _pause_and_resume(shell, client, engine, worker)
        finally:
            shell.show(f"warmboot worker rm -f {NAME}")
            await client.workers.delete(NAME, force=True)


async def _pause_and_resume(
    shell: Shell, client: Client, engine: DockerEngine, worker: Worker
) -> None:
    console = shell.console
    secret, count = await _counted(client, beyond=20)
    pid = (await engine.inspect(worker.docker_id or "")).pid
    console.print(f"It counts: secret {secret} (in its memory only), {count}; process {pid}.")
    await _reported(console, client, 10)

    await shell.run("warmboot", "worker", "pause", NAME)
    made = (await client.workers.checkpoints(NAME))[0]
    _, last = await _last(client)
    gone = "is gone from" if not Path("/proc", str(pid)).exists() else "IS STILL IN"
    console.print(
        f"Paused at {last} in {made.duration_s:.2f} s; {made.size_bytes / 1e6:.1f} MB on disk. "
        f"Process {pid} {gone} the process list."
    )
    await asyncio.sleep(2)  # for those who watch

    await shell.run("warmboot", "worker", "resume", NAME)
    secret_after, first = await _counted(client, beyond=last)
    if (secret_after, first) != (secret, last + 1):
        raise SystemExit(f"it went on with {secret_after}, {first}: its memory did not survive")
    console.print(f"Resumed: the same secret {secret_after}, and it goes on at {first}.")
    await _reported(console, client, last + 10 - last % 10)


@asynccontextmanager
async def _setting(console: Console) -> AsyncIterator[tuple[Client, DockerEngine, str]]:
    console.print(
        "A Docker engine and a manager of its own in temporary folders; the engine of this "
        "machine is left alone.\nCRIU reads /etc/criu/runc.conf only: tcp-established is added "
        "there for the time of the demo if it is missing.\n"
    )
    with tempfile.TemporaryDirectory(prefix="wb-demo-") as storage, tcp_established():
        async with (
            private_dockerd(state_root() / "criu") as dockerd,
            DockerEngine(dockerd.socket) as engine,
        ):
            settings = {
                "MANAGER_HYPERVISOR": "simulated",
                "MANAGER_DOCKER_HOST": f"unix://{dockerd.socket}",
                "MANAGER_CRIU_WRAPPER": str(dockerd.criu_wrapper),
            }
            async with (
                manager(
                    Path(storage), prefix="wbdw", subnet="198.19.224.0/20", settings=settings
                ) as running,
                Client(running.url) as client,
            ):
                yield client, engine, running.url


async def _reported(console: Console, client: Client, count: int) -> None:
    """Wait until the manager has heard a count from the worker."""
    async with asyncio.timeout(REPORTS_WAIT_S), client.events.follow(0) as events:
        async for event in events:
            if event.kind == "worker.reported" and event.data["data"]["count"] >= count:
                console.print(f"The manager heard from it: {dict(event.data['data'])}")
                return


async def _counted(client: Client, beyond: int) -> tuple[str, int]:
    """The worker's secret and its first number above ``beyond``."""
    rest = ""
    async with (
        asyncio.timeout(LINE_TIMEOUT_S),
        aclosing(client.workers.logs(NAME, follow=True)) as chunks,
    ):
        async for chunk in chunks:
            *lines, rest = (rest + chunk.decode()).split("\n")
            for secret, number in map(_parsed, lines):
                if number > beyond:
                    return secret, number
    raise SystemExit("the worker has ended")


async def _last(client: Client) -> tuple[str, int]:
    written = b"".join([chunk async for chunk in client.workers.logs(NAME, tail=1)])
    return _parsed(written.decode().strip())


def _parsed(line: str) -> tuple[str, int]:
    words = line.split()
    return words[1].rstrip(","), int(words[3])
