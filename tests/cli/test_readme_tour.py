"""The README's tour as it stands, command by command in a fresh folder, on simulated VMs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.support.managers import image_folder, lab
from tests.support.served import free_port

from warmboot.docker.tiny_image import image_archive

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
SIMULATED_LACKS = {"warmboot runtime build": ":", " -p 8080": ""}
"""It has no image to build, and no network."""


def tour() -> str:
    section = README.read_text().partition("## A tour\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


def in_folder(script: str, port: int) -> str:
    """The same, said before each command what it is, and ended by the first that fails."""
    for words, instead in SIMULATED_LACKS.items():
        assert words in script
        script = script.replace(words, instead)
    return "set -ex\n" + script.replace("127.0.0.1:18080", f"127.0.0.1:{port}")


async def test_every_command_of_the_tour_does_what_the_readme_says() -> None:
    async with lab() as place:
        state, port = place.root / ".state", free_port()
        (state / "demo").mkdir(parents=True)
        (state / "runtime-image").symlink_to(await image_folder())
        content = image_archive("warmboot-demo/hello:1", {}, {}, ["httpd"])
        (state / "demo" / "hello.tar").write_bytes(content)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("WARMBOOT_", "MANAGER_"))}
        log = place.root / "said"
        with log.open("wb") as said:
            ran = await asyncio.create_subprocess_exec(
                *("bash", "-c", in_folder(tour(), port)),
                cwd=place.root,
                env={
                    **clean,
                    "PATH": f"{sys.prefix}/bin:{clean['PATH']}",
                    "WARMBOOT_URL": f"http://127.0.0.1:{port}",
                    "MANAGER_PORT": str(port),
                    "MANAGER_SOCKET": str(place.root / "sock"),
                    "MANAGER_HYPERVISOR": "simulated",
                    "MANAGER_SIMULATION": str(place.simulation),
                    "MANAGER_DISK_FLOOR_MIB": "0",
                },
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            try:
                await asyncio.wait_for(ran.wait(), 300)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ran.pid, signal.SIGKILL)
        out = log.read_text()
        assert ran.returncode == 0, out
        assert not (state / "tour").exists()
        assert re.search(r'"name":"greeting".*"state":"exited".*"exit_code":0', out)
        assert len(re.findall(r"^hi$", out, re.MULTILINE)) == 2
        assert '"code": "not-found"' in out
