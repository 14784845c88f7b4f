"""The second part of the demo: a compose stack in a Docker engine of one's own."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from demo.image import PORT
from demo.manager import Manager, state_root
from demo.shell import Shell, short
from warmboot.cli.commands.engine.environment import UNSET, environment_of
from warmboot.client import Client

NAME = "demo-engine"
COMPOSE = ("docker", "compose")
STACK = Path(__file__).with_name("compose.yaml")


async def show(console: Console, manager: Manager, archive: Path) -> None:
    """Create an engine, bring the stack up in it, talk to it from the host, clean up."""
    shell = Shell(console, manager.url)
    if not await shell.has(*COMPOSE, "version"):  # on this machine: then what setup has fetched
        shell.export({"DOCKER_CONFIG": str(state_root() / "docker-clients")})
    if not await shell.has(*COMPOSE, "version"):
        console.print(
            "Left out: `docker compose` is not here, and `make setup` could not fetch it "
            "(see docker-clients.log in .state)."
        )
        return
    async with Client(manager.url) as client:
        await shell.run("warmboot", "engine", "create", NAME)
        try:
            engine = await client.engines.get(NAME)
            console.print(f"{engine.boot_method}: its Docker answers after {engine.boot_s:.2f} s.")
            shell.show(f'eval "$(warmboot engine env {NAME})"')
            shell.export(environment_of(engine))
            for name in UNSET:
                shell.environment.pop(name, None)
            await _stack(shell, archive)
        finally:
            await shell.run("warmboot", "engine", "rm", "-f", NAME)


async def _stack(shell: Shell, archive: Path) -> None:
    await shell.run("docker", "load", "-q", "-i", short(archive))
    compose = (*COMPOSE, "-f", short(STACK))
    began_s = time.monotonic()
    await shell.run(*compose, "up", "-d", "--wait")
    shell.console.print(f"It is up and healthy after {time.monotonic() - began_s:.1f} s.")
    await shell.output(*compose, "ps", "--format", r"table {{.Service}}\t{{.Status}}\t{{.Ports}}")
    where = await shell.said(*compose, "port", "web", str(PORT))
    await shell.curl(f"http://localhost:{where.rpartition(':')[2]}/")
