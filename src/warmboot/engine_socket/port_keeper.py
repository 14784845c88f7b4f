"""Has the manager publish a container's ports: before its start is answered, as its client expects.

    create   ports that are left to Docker get numbers, which are the container's until its removal
    start    the others are taken, or the start is refused in Docker's words
             answered: is it so? else they are given back

Containers that have no ports do not need the manager, and are neither kept waiting nor refused
while there is none.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.port_bindings import (
    WantedPort,
    bound_ports,
    filled_in,
    taken,
    wanted_ports,
    wants_all,
)

_ID = re.compile(r"[0-9a-f]{64}")

Ask = Callable[..., Awaitable[Mapping[str, Any]]]
"""Ask the manager: what, and with what. ``Refusal`` when there is none."""


class AsksDocker(Protocol):
    async def ask(self, target: str) -> tuple[int, Any]:
        """The status and the JSON of a GET."""
        ...


class PortKeeper:
    """Keeps the host ports of one engine: ``ask`` reaches the manager, ``docker`` the
    guest's Docker.
    """

    def __init__(self, engine_id: str, ask: Ask) -> None:
        self._engine_id = engine_id
        self._ask = ask

    async def before_create(
        self, docker: AsksDocker, config: Mapping[str, Any]
    ) -> tuple[bytes, int] | None:
        """The body to send, and the number of a reservation, if there is one. ``Refusal``."""
        exposed = await self._exposed(docker, config) if wants_all(config) else {}
        wanted = wanted_ports(config, exposed)
        if not wanted:
            return None
        answer = await self._ask(
            "reserve-ports", engine=self._engine_id, ports=[_as_json(one) for one in wanted]
        )
        if "refused" in answer:
            raise Refusal(500, str(answer["refused"]))
        filled = filled_in(config, wanted, answer["numbers"])
        return json.dumps(filled).encode(), int(answer["reservation"])

    async def after_create(self, reservation: int, status: int, answer: bytes) -> None:
        """Say whose the reservation is, or that it is nobody's."""
        container = _id_in(answer) if status == 201 else None
        with contextlib.suppress(Refusal):  # it is there all the same, and its start asks again
            await self._ask(
                "keep-ports", engine=self._engine_id, reservation=reservation, container=container
            )

    async def before_start(self, docker: AsksDocker, reference: str) -> str | None:
        """Have its ports published; its id, if it has some. ``Refusal``."""
        status, found = await docker.ask(f"/containers/{quote(reference, safe='')}/json")
        if status != 200:
            return None  # dockerd says so itself
        try:
            wanted = bound_ports(found)
            container, name = str(found["Id"]), str(found.get("Name", "")).lstrip("/")
        except (AttributeError, KeyError, TypeError):
            return None  # no Docker says that
        if not wanted or not _ID.fullmatch(container):
            return None
        answer = await self._ask(
            "publish-ports",
            engine=self._engine_id,
            container=container,
            ports=[_as_json(one) for one in wanted],
        )
        if "taken" in answer:
            address, number = answer["taken"]
            raise Refusal(500, taken(name, container, address, number))
        if "refused" in answer:
            raise Refusal(500, str(answer["refused"]))
        return container

    async def after_start(self, docker: AsksDocker, container: str) -> None:
        """Look whether a container that was started runs, and tell the manager whether it
        has its ports.
        """
        with contextlib.suppress(Refusal):  # else Docker's events tell
            status, found = await docker.ask(f"/containers/{container}/json")
            runs = status == 200 and _runs(found)
            await self._ask("settle-ports", engine=self._engine_id, container=container, runs=runs)

    async def _exposed(self, docker: AsksDocker, config: Mapping[str, Any]) -> Mapping[str, Any]:
        image = quote(str(config.get("Image", "")), safe="/:@")
        status, found = await docker.ask(f"/images/{image}/json")
        try:
            exposed = (found.get("Config") or {}).get("ExposedPorts") if status == 200 else None
        except AttributeError:
            return {}
        return exposed if isinstance(exposed, Mapping) else {}


def _id_in(answer: bytes) -> str | None:
    """Of the container that was created. The Docker is its owner's, and may say anything."""
    try:
        found = str(json.loads(answer)["Id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if _ID.fullmatch(found) else None


def _runs(found: Any) -> bool:
    try:
        return bool(found["State"]["Running"])
    except (KeyError, TypeError):
        return False


def _as_json(wanted: WantedPort) -> list[Any]:
    return [wanted.port, wanted.host_ip, wanted.low, wanted.high]
