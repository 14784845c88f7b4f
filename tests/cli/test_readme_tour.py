"""The README's tour as it stands, command by command in a fresh folder, on simulated VMs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.managers import image_folder, lab
from tests.support.ports import free_port
from tests.support.tours import clean_environment, commands, walk

from warmboot.docker.tiny_image import image_archive

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
SIMULATED_LACKS = {"warmboot runtime build": ":", " -p 8080": ""}
"""It has no image to build, and no network."""

NOT_HERE = ("make demo", "make test", "make bench")
"""They install packages, start VMs and run all tests."""


def parts() -> tuple[str, str]:
    """The tour, and what comes before and after it."""
    before, _, rest = README.read_text().partition("## A tour\n")
    tour, _, after = rest.partition("\n## ")
    return tour, before + after


def in_folder(tour: str, port: int) -> str:
    script = "\n".join(commands(tour))
    for words, instead in SIMULATED_LACKS.items():
        assert words in script
        script = script.replace(words, instead)
    return script.replace("127.0.0.1:18080", f"127.0.0.1:{port}")


def test_the_readme_has_no_commands_but_the_tour_and_those_of_make() -> None:
    assert tuple(one.partition("#")[0].strip() for one in commands(parts()[1])) == NOT_HERE


async def test_every_command_of_the_tour_does_what_the_readme_says() -> None:
    async with lab() as place:
        state, port = place.root / ".state", free_port()
        place.storage = state / "tour"
        (state / "demo").mkdir(parents=True)
        (state / "runtime-image").symlink_to(await image_folder())
        content = image_archive("warmboot-demo/hello:1", {}, {}, ["httpd"])
        (state / "demo" / "hello.tar").write_bytes(content)
        environment = clean_environment(
            WARMBOOT_URL=f"http://127.0.0.1:{port}",
            MANAGER_PORT=str(port),
            MANAGER_SOCKET=str(place.root / "sock"),
            MANAGER_HYPERVISOR="simulated",
            MANAGER_SIMULATION=str(place.simulation),
            MANAGER_DISK_FLOOR_MIB="0",
        )
        out = await walk(in_folder(parts()[0], port), place.root, environment)
        assert not (state / "tour").exists()
        assert re.search(r'"name":"greeting".*"state":"exited".*"exit_code":0', out)
        assert len(re.findall(r"^hi$", out, re.MULTILINE)) == 2
        assert '"code": "not-found"' in out
