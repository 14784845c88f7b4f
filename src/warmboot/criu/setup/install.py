"""Installs a CRIU that is new enough for this kernel.

    is one there that does? ─▶ nothing to do
        │ no
        ▼
    does the distribution have one? ─▶ apt-get install criu
        │ no
        ▼
    unpack it from a newer Debian suite, with its own C library, under a prefix of its own,
    and put a small wrapper where the engine finds it

The newer CRIU needs a newer C library than the host has, so the wrapper starts it through the
prefix's own dynamic loader; nothing of the host is replaced. The prefix is unpacked beside its
final place and renamed, so that a half-unpacked one is never used.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.binary import SEARCH_PATH, criu_version, usable_criu
from warmboot.model.checkpoint import criu_obstacles
from warmboot.model.errors import HostError
from warmboot.system.files import set_aside, write_atomically
from warmboot.system.programs import Outcome, run_program

DEFAULT_PREFIX = Path("/opt/warmboot/criu")
DEFAULT_WRAPPER = Path("/usr/local/sbin/criu")
NEWER_SUITES = ("trixie", "forky", "sid")
INSTALL_TIMEOUT_S = 900.0
ASK_TIMEOUT_S = 60.0
_OURS = "# Written by warmboot: CRIU with a C library of its own."

_HANDED_DOWN = (
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
)


@dataclass(frozen=True, slots=True)
class Installed:
    """``source`` is ``present``, ``distribution`` or the suite that it came from.

    ``aside``: where a program of somebody else's went that stood in the wrapper's place.
    """

    binary: Path
    version: str
    source: str
    aside: Path | None = None

    @property
    def changed(self) -> bool:
        return self.source != "present"


async def install_criu(
    prefix: Path = DEFAULT_PREFIX,
    wrapper: Path = DEFAULT_WRAPPER,
    *,
    kernel: str | None = None,
    suites: Sequence[str] = NEWER_SUITES,
    from_distribution: bool = True,
    system_path: str = SEARCH_PATH,
) -> Installed:
    """Have a CRIU that does on this kernel; needs root unless there is one. Idempotent.

    ``system_path`` is where one may be already, besides the wrapper's folder.
    ``HostError`` with every way that was tried when none led to one.
    """
    kernel = kernel or os.uname().release
    search_path = f"{wrapper.parent}:{system_path}"
    binary, lacking = await usable_criu(search_path, kernel)
    if binary is not None and not lacking:
        return Installed(binary, await criu_version(binary), "present")
    tried = [obstacle.reason for obstacle in lacking]
    if from_distribution:
        candidate = await _candidate()
        if candidate and not criu_obstacles(candidate, kernel):
            await _apt("install", "-y", "--no-install-recommends", "criu")
            binary, lacking = await usable_criu(system_path, kernel)
            if binary is not None and not lacking:
                return Installed(binary, await criu_version(binary), "distribution")
        tried.append(f"the distribution has {candidate or 'none'}")
    for suite in suites:
        outcome = await _unpack(suite, prefix, wrapper, kernel)
        if isinstance(outcome, Installed):
            return outcome
        tried.append(f"{suite}: {outcome}")
    raise HostError(
        f"no CRIU that works with Linux {kernel} could be installed",
        details="; ".join(tried),
        resolution="install a newer CRIU by hand and put it on the engine's PATH",
    )


async def _candidate() -> str:
    """The version that the distribution would install; empty when it has none."""
    if shutil.which("apt-cache") is None:
        return ""
    outcome = await run_program("apt-cache", "policy", "criu", check=False, timeout_s=ASK_TIMEOUT_S)
    for line in outcome.output.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "Candidate" and value != "(none)":
            return value
    return ""


async def _unpack(suite: str, prefix: Path, wrapper: Path, kernel: str) -> Installed | str:
    """Unpack ``suite``'s CRIU; why not, in words, when it cannot be had or is too old."""
    if shutil.which("mmdebstrap") is None:
        await _apt("install", "-y", "--no-install-recommends", "mmdebstrap")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    new = prefix.with_name(f"{prefix.name}.new-{os.getpid()}")
    try:
        outcome = await run_program(
            "mmdebstrap",
            "--quiet",
            "--variant=extract",
            "--include=criu",
            *await apt_settings(),
            suite,
            new,
            check=False,
            timeout_s=INSTALL_TIMEOUT_S,
        )
        if not outcome.ok:
            return _last_line(outcome)
        launch = launcher(new)
        if launch is None:
            return "what was unpacked has no CRIU or no dynamic loader"
        script = new / "criu"
        write_launcher(script, launch)
        version = await criu_version(script)
        lacking = criu_obstacles(version, kernel)
        if lacking:
            return lacking[0].reason
        old = prefix.with_name(f"{prefix.name}.old-{os.getpid()}")
        if prefix.exists():
            prefix.rename(old)
        new.rename(prefix)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    final = launcher(prefix)
    if final is None:
        return f"{prefix} changed while it was being installed"
    write_launcher(prefix / "criu", final)
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    aside = make_way(wrapper)
    write_launcher(wrapper, final)
    return Installed(wrapper, version, suite, aside)


def launcher(prefix: Path) -> list[str] | None:
    """The command that starts the prefix's CRIU with the prefix's own C library."""
    program = prefix / "usr" / "sbin" / "criu"
    loaders = sorted(prefix.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = sorted(prefix.glob("usr/lib/*-linux-gnu*"))
    if not program.exists() or not loaders or not libraries:
        return None
    return [
        str(loaders[0]),
        "--argv0",
        "criu",
        "--library-path",
        ":".join(map(str, libraries)),
        str(program),
    ]


def write_launcher(path: Path, command: Sequence[str]) -> None:
    write_atomically(path, f'#!/bin/sh\n{_OURS}\nexec {shlex.join(command)} "$@"\n', mode=0o755)


def make_way(wrapper: Path) -> Path | None:
    """Set aside what is at the wrapper's place and not ours; where it is then.

    A link is set aside as a link: what it leads to is the distribution's, or another program.
    """
    if not os.path.lexists(wrapper):
        return None
    if not wrapper.is_symlink() and wrapper.is_file():
        with wrapper.open("rb") as file:
            if _OURS.encode() in file.read(512):
                return None
    return set_aside(wrapper)


async def apt_settings() -> list[str]:
    """The host's own choices that mmdebstrap does not read by itself.

    A host whose mirror lags behind says in its configuration that the age of a release file does
    not matter; signatures are checked all the same. Where the host says nothing, neither do we.
    """
    outcome = await run_program("apt-config", "dump", check=False, timeout_s=ASK_TIMEOUT_S)
    options: list[str] = []
    for line in outcome.output.splitlines():
        if line.split(" ", 1)[0] in _HANDED_DOWN:
            options.append(f"--aptopt={line.rstrip(';')}")
    return options


async def _apt(*arguments: str) -> None:
    outcome = await run_program(
        *("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments),
        check=False,
        timeout_s=INSTALL_TIMEOUT_S,
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )
    if not outcome.ok:
        raise HostError(
            f"apt-get {arguments[0]} failed",
            details=_last_line(outcome),
            resolution="run `apt-get update` and check the package sources",
        )


def _last_line(outcome: Outcome) -> str:
    errors = [line for line in outcome.output.splitlines() if line.startswith("E:")]
    lines = errors or outcome.output.strip().splitlines() or [f"exit code {outcome.code}"]
    return lines[0]
