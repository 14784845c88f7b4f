"""The environment of a program in the simulated Docker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged(own: Sequence[str], of_image: Sequence[str]) -> list[str]:
    """Its own come first; the image's are there for what they do not name."""
    named = {variable.partition("=")[0] for variable in own}
    return [*own, *(one for one in of_image if one.partition("=")[0] not in named)]


def started_with(config: Mapping[str, Any], asked: Sequence[str]) -> list[str]:
    """Docker's variables, the container's and those of an exec; a bare name takes one away."""
    found = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": str(config["Hostname"])}
    for variable in (*config["Env"], *asked):
        name, assigned, value = variable.partition("=")
        if assigned:
            found[name] = value
        else:
            found.pop(name, None)
    return [f"{name}={value}" for name, value in found.items()]
