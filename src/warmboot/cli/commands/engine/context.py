"""Docker contexts that lead to an engine, made by the ``docker`` program itself."""

from __future__ import annotations

import json
import subprocess

from warmboot.model.errors import NotFound, WarmbootError

_TIMEOUT_S = 60.0


def made_context(name: str, docker_host: str) -> None:
    """Have a context of this name. ``NotFound`` without docker, else why it was refused."""
    try:
        made = _docker("create", name, "--docker", f"host={docker_host}")
    except FileNotFoundError:
        raise NotFound(
            "there is no docker program to create a context with",
            resolution=f"install the Docker command line, or set DOCKER_HOST={docker_host}",
        ) from None
    if made.returncode != 0:
        raise WarmbootError(
            f"docker did not create the context {name}",
            details=made.stderr.strip(),
            resolution=f"the engine runs; `docker context rm {name}` removes an older one",
        )


def remove_context(name: str, docker_host: str) -> None:
    """Remove the context of this name, if it leads to this engine and nowhere else."""
    try:
        found = _docker("inspect", name)
        if found.returncode == 0 and _host_of(found.stdout) == docker_host:
            _docker("rm", "--force", name)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return


def _host_of(inspected: str) -> str:
    try:
        return str(json.loads(inspected)[0]["Endpoints"]["docker"]["Host"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "context", *words],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
