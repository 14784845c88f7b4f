"""What each part of the installation needs, and what is said where one is missing.

A process may import what the distribution's own metadata bring for an extra, and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest

ONLY = """
import importlib.abc, sys
allowed = set(sys.argv.pop(1).split(",")) | set(sys.stdlib_module_names) 
class OnlyThese(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, OnlyThese())
"""


def brought_by(extra: str) -> set[str]:
    """The distributions that ``pip install warmboot[extra]`` brings, on this Python."""
    found: set[str] = set()
    left = [f"warmboot[{extra}]"]
    while left:
        match = re.match(r"([\w.-]+)(?:\[([\w,.-]*)\])?", left.pop())
        assert match is not None
        name, extras = re.sub(r"[-_.]+", "-", match[1]).lower(), (match[2] or "").split(",")
        key = f"{name}[{','.join(extras)}]"
        if key in found:
            continue
        found |= {name, key}
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        for need in needs:
            asked = re.search(r"extra == ['\"]([\w-]+)['\"]", need)
            if asked is None or asked[1] in extras:
                left.append(need)
    return found


def python(extra: str, code: str, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    brought = brought_by(extra)
    modules = {
        module
        for module, owners in packages_distributions().items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() in brought for owner in owners)
    } | {"warmboot"}
    environment = {
        **os.environ,
        "WARMBOOT_URL": "http://127.0.0.1:9",
        "MANAGER_STORAGE_ROOT": "/dev/null/none",  # nothing is to start, and nothing can
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", ONLY + code, ",".join(modules), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


COMMAND = "from warmboot.cli.entry import main; main()"


def test_a_worker_and_a_client_need_little() -> None:
    ran = python("", "import warmboot.client, warmboot.worker; print('imported')")
    assert ran.stdout == "imported\n", ran.stderr
    assert not brought_by("") & {"typer", "rich", "fastapi", "pydantic", "sqlalchemy", "aiohttp"}


def test_without_the_command_line_the_program_says_how_to_get_it() -> None:
    ran = python("", COMMAND, "ps")
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "error: the command line is not installed here",
        "  why: there is no Python module 'typer'",
        " next: pip install 'warmboot[cli]'",
    ]


def test_the_command_line_reaches_a_manager_without_the_managers_packages() -> None:
    helped = python("cli", COMMAND, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    ran = python("cli", COMMAND, "ps")
    assert ran.returncode == 1
    assert "http://127.0.0.1:9" in ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("serve",),
        ("doctor",),
        ("doctor", "--fix"),
        ("runtime", "build", "--output", "/dev/null/none"),
    ],
)
def test_without_the_manager_its_commands_say_how_to_get_it(words: tuple[str, ...]) -> None:
    ran = python("cli", COMMAND, *words, WARMBOOT_URL="", MANAGER_SOCKET="/dev/null/none")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[0] == "error: the manager is not installed here"
    assert ran.stderr.splitlines()[-1] == " next: pip install 'warmboot[server]'"


def test_the_manager_starts_with_what_its_part_brings() -> None:
    ran = python("server", "import warmboot.bootstrap.service; " + COMMAND, "--version")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_interrupt_while_the_commands_are_loaded_ends_it_without_a_word() -> None:
    program = (
        "import sys, types\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'warmboot.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from warmboot.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")
