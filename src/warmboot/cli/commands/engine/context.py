"""Docker contexts that lead to an engine, made by the ``docker`` program itself."""

from __future__ import annotations

import json
import subprocess

from warmboot.model.errors import Conflict, InvalidRequest, NotFound, WarmbootError

_TIMEOUT_S = 60.0
_FEWEST_CHARACTERS = 2
_RESERVED = "default"


def check_context(name: str) -> None:
    """Raise what would keep docker from creating a context of this name, while there is nothing
    to be taken back. ``NotFound`` without docker, ``InvalidRequest``, ``Conflict``.
    """
    if len(name) < _FEWEST_CHARACTERS or name == _RESERVED:
        raise InvalidRequest(
            f"docker has no context called {name}",
            details=f"its names have {_FEWEST_CHARACTERS} characters or more, "
            f"and {_RESERVED} is its own",
            resolution="give the engine another name, or leave --context out",
        )
    if _called("inspect", name).returncode == 0:
        raise Conflict(
            f"there is a docker context {name} already",
            resolution=f"remove it with `docker context rm {name}`, or give another name",
        )


def made_context(name: str, docker_host: str) -> None:
    """Have a context of this name. ``NotFound`` without docker, else why it was refused."""
    made = _called("create", name, "--docker", f"host={docker_host}")
    if made.returncode != 0:
        raise WarmbootError(
            f"docker did not create the context {name}",
            details=made.stderr.strip(),
            resolution=f"the engine runs: use it by DOCKER_HOST={docker_host}, "
            f"or remove it with `warmboot engine rm -f {name}`",
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


def _called(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return _docker(*words)
    except FileNotFoundError:
        raise NotFound(
            "there is no docker program to create a context with",
            resolution="install the Docker command line, or leave --context out: "
            "`warmboot engine env` sets DOCKER_HOST",
        ) from None
    except subprocess.TimeoutExpired:
        raise WarmbootError(
            f"`docker context {words[0]}` did not end within {_TIMEOUT_S:g} s",
            resolution="see that `docker context ls` works, or leave --context out",
        ) from None


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "context", *words],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
