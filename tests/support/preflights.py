"""The preflight of a machine that has CRIU, with its settings in a folder of the test's."""

from __future__ import annotations

from pathlib import Path

from tests.support.dockerd import CRIU_PREFIX, CRIU_WRAPPER

from warmboot.criu.setup.findings import Finding
from warmboot.criu.setup.install import Installed
from warmboot.criu.setup.preflight import Preflight


async def nothing_to_install(prefix: Path, wrapper: Path) -> Installed:
    return Installed(wrapper, "4.2.1", "present")


def preflight(folder: Path, address: Path) -> Preflight:
    return Preflight(
        socket=address,
        daemon_json=folder / "docker" / "daemon.json",
        runc_conf=folder / "criu" / "runc.conf",
        criu_prefix=CRIU_PREFIX,
        criu_wrapper=CRIU_WRAPPER,
        install=nothing_to_install,
        runtime=None,
    )


def named(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}
