"""The first part of the demo: the same container started cold and warm, side by side."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.image import NAME, PORT
from demo.manager import Manager, forget_older_images, image_digest
from demo.shell import Shell, short
from warmboot.client import Client
from warmboot.client.results import Container

_STAGES = {
    "snapshot": "choose a snapshot",
    "network": "take a network slot",
    "disk": "copy-on-write disk",
    "boot": "start the VMM",
    "restore": "restore the VM",
    "identity": "guest is up, gets its identity",
    "docker": "Docker answers",
    "ports": "publish the port",
    "load": "load the image",
    "create": "create the container",
    "start": "start the container",
}


async def show(console: Console, manager: Manager, image_folder: Path, archive: Path) -> None:
    """Register, build a snapshot, boot cold and warm, talk to both, clean up."""
    shell = Shell(console, manager.url)
    async with Client(manager.url) as client:
        await forget_older_images(client, image_digest(image_folder))
        await shell.run("warmboot", "runtime", "register", "--name", "demo", short(image_folder))
        await _ready_snapshot(shell, client)
        try:
            boots = [
                await _boot(shell, client, archive, name, options)
                for name, options in (("demo-cold", ["--cold"]), ("demo-warm", []))
            ]
            console.print(_side_by_side(*boots))
        finally:
            names = [c.name for c in await client.containers.list(all_states=True)]
            if names:
                await shell.run("warmboot", "rm", "-f", *names)


async def _ready_snapshot(shell: Shell, client: Client) -> None:
    """The snapshot of an earlier run serves again; otherwise the one that is being built will.

    Registering the image has begun it: to create one waits for that.
    """
    for snapshot in await client.snapshots.list():
        if snapshot.state == "ready":
            shell.console.print(f"Runtime snapshot {snapshot.id[:8]} is there from an earlier run.")
            return
    image = (await client.images.list())[0]
    await shell.run("warmboot", "snapshot", "create", image.name)


async def _boot(
    shell: Shell, client: Client, archive: Path, name: str, options: list[str]
) -> Container:
    ran = ("warmboot", "run", "-d", "--name", name, "-p", str(PORT), *options)
    await shell.run(*ran, "--archive", short(archive), NAME)
    container = await client.containers.get(name)
    await shell.curl(f"http://127.0.0.1:{container.ports[0].host_port}/")
    shell.console.print()
    return container


def _side_by_side(cold: Container, warm: Container) -> Table:
    table = Table(title="The same container, started cold and warm (seconds)")
    for heading in ("stage", "cold", "warm"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    both = [{stage.name: stage.duration_s for stage in c.stages} for c in (cold, warm)]
    for name, words in _STAGES.items():
        if any(name in one for one in both):
            table.add_row(words, *(f"{one[name]:.2f}" if name in one else "" for one in both))
    table.add_section()
    cold_s, warm_s = cold.boot_s or 0.0, warm.boot_s or 0.0
    table.add_row("request → Docker answers", f"{cold_s:.2f}", f"{warm_s:.2f}", style="bold")
    totals = [sum(one.values()) for one in both]
    table.add_row("all stages", *(f"{total:.2f}" for total in totals), style="bold")
    table.caption = f"{warm.boot_method}: Docker answers {cold_s / max(warm_s, 1e-3):.0f}× sooner"
    return table
