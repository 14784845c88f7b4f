"""The how-tos of engines: every command as it stands there and in order, on real VMs.

Those that are left out are named, with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.e2e.engine_shells import Shell
from tests.support.client_images import redis_image
from tests.support.images import busybox
from tests.support.tours import commands
from tests.support.vms import Site

from warmboot.docker.tiny_image import image_archive

HOW_TOS = Path(__file__).parents[2] / "docs/how-to"
_FILE = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

LEFT_OUT = {
    "pip install": "the tests' environment has it",
    "python -m pytest": "it has run in an engine of its own",
    "docker buildx build": "test_e2e_engine_clients builds with it",
}

LOADED = {
    "warmboot engine run --": "warmboot engine run -- ./with-images",
    'env job-17)"': 'env job-17)"; ./with-images true',
    'socket agent)"': 'socket agent)"; ./with-images true',
}
"""Where a Docker would pull what it does not have."""


def small(name: str) -> bytes:
    links = {"bin/hostname": "busybox", "bin/sh": "busybox"}
    return image_archive(name, {"bin/busybox": busybox().read_bytes()}, links, ["sh"])


def script_of(page: str) -> str:
    text = (HOW_TOS / page).read_text()
    script = "\n".join(one for one in commands(text) if not one.startswith(tuple(LEFT_OUT)))
    for words, instead in LOADED.items():
        script = script.replace(words, instead)
    return script


async def walked(site: Site, folder: Path, page: str, image: bytes, **more: str) -> str:
    for name, content in _FILE.findall((HOW_TOS / page).read_text()):
        (folder / name).write_text(content)
    out = await Shell.at(site, folder, {"image": image}, **more).run(script_of(page))
    async with site.client() as client:
        assert await client.engines.list() == []
    return out


async def test_ci_jobs_have_a_docker_of_their_own(engine_site: Site, tmp_path: Path) -> None:
    out = await walked(engine_site, tmp_path, "ci-jobs.md", redis_image())
    assert re.search(r"tests-1 +\| 1$", out, re.MULTILINE)


async def test_testcontainers(engine_site: Site, tmp_path: Path) -> None:
    more = {"TESTCONTAINERS_RYUK_DISABLED": "true"}  # its image is on Docker Hub
    out = await walked(engine_site, tmp_path, "testcontainers.md", redis_image(), **more)
    assert out.count("1 passed") == 1


async def test_an_agent_may_do_everything(engine_site: Site, tmp_path: Path) -> None:
    out = await walked(engine_site, tmp_path, "agents.md", small("busybox:1"))
    assert "agent\n" in out
    assert " container start " in out


@pytest.mark.parametrize("page", ["ci-jobs.md", "testcontainers.md", "agents.md"])
def test_each_page_has_commands_that_are_run(page: str) -> None:
    assert "warmboot engine" in script_of(page)
