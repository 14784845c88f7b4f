"""The shape of a snapshot that is asked for by `--cpus` and `--memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmboot.cli.drive import usage
from warmboot.cli.parsing import parse_cpus, parse_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from warmboot.client import Client


def wanted_shape(
    cpus: str | None, memory: str | None
) -> Callable[[Client], Awaitable[dict[str, int]]]:
    """What asks for it: nothing if neither was typed, else both, the other one the default's."""
    try:
        vcpus = parse_cpus(cpus) if cpus else None
        memory_mib = parse_memory(memory) if memory else None
    except ValueError as error:
        raise usage(str(error)) from None

    async def ask_for(client: Client) -> dict[str, int]:
        if vcpus is None and memory_mib is None:
            return {}
        default = (await client.system.info())["default_shape"]
        return {
            "vcpus": vcpus or default["vcpus"],
            "memory_mib": memory_mib or default["memory_mib"],
        }

    return ask_for
