"""Folders of this machine in an engine, as its containers see them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.conftest import TOOLS
from tests.e2e.docker_engines import Engine
from tests.support.site_processes import command_of

from warmboot.host.vm.leftovers import users_of


async def folders_are_live(engine: Engine, folder: Path) -> None:
    """What one side writes the other reads, links lead to nothing of the host's, and a server that
    is killed is not missed."""
    (folder / "code").mkdir()
    (folder / "code" / "word").write_text("from the host")
    (folder / "code" / "out").symlink_to(folder.parent)
    mounted = ("run", "--rm", "-v", f"{folder}/code:/src", TOOLS, "sh", "-c")
    script = "cat /src/word; test ! -e /src/out && echo from the engine >/src/answer"
    assert (await engine.docker(*mounted, script)).out == "from the host"
    assert (folder / "code" / "answer").read_text() == "from the engine\n"
    refused = await engine.docker("run", "-v", f"{folder.parent}:/src", TOOLS, "true", code=125)
    assert f"sees only what is in {folder}" in refused.err
    vms = engine.site.storage / "vms"
    (server,) = [pid for vm in vms.iterdir() for pid in servers_of(vm)]
    os.kill(server, signal.SIGKILL)
    assert (await engine.docker(*mounted, "cat /src/word")).out == "from the host"


def servers_of(vm: Path) -> list[int]:
    return [pid for pid in users_of(vm) if "folder_server" in command_of(pid)]


async def a_fork_only_reads(fork: Engine, folder: Path) -> None:
    mounted = ("run", "--rm", "-v", f"{folder}/code:/src", TOOLS, "sh", "-c")
    tried = "cat /src/word; echo no 2>&- >/src/answer || echo refused"
    assert (await fork.docker(*mounted, tried)).out == "from the hostrefused\n"
    assert (folder / "code" / "answer").read_text() == "from the engine\n"
