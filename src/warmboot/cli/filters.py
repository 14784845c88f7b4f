"""``--filter`` of ``warmboot ps``: for each key one value must match, for labels all of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from warmboot.model.container import ContainerState
from warmboot.model.conventions.labels import has_label
from warmboot.model.tenants.container_options import Health

if TYPE_CHECKING:
    from warmboot.client.results import Container

Test = Callable[["Container"], bool]

_EXIT_CODE = re.compile(r"[0-9]{1,3}")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,63}")
"""Part of a name that is no pattern."""


class Filters:
    """The ``--filter`` options of a list; ``ValueError`` says what is wrong with one."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._wanted: defaultdict[str, list[str]] = defaultdict(list)
        self._tests: defaultdict[str, list[Test]] = defaultdict(list)
        for entry in entries:
            key, assigned, value = entry.partition("=")
            if not assigned or key not in _KEYS:
                raise ValueError(f"{entry!r}: write {', '.join(f'{known}=…' for known in _KEYS)}")
            self._tests[key].append(_KEYS[key](value))
            self._wanted[key].append(value)

    @property
    def any_state(self) -> bool:
        """Who asks for a state asks for those too that do not run, as with docker."""
        return "status" in self._wanted

    @property
    def states(self) -> Sequence[str]:
        """The states of which the manager is to list the containers that are in one of them."""
        return self._wanted.get("status", ())

    @property
    def labels(self) -> Sequence[str]:
        """The labels of which the manager is to list the containers that have all of them."""
        return self._wanted.get("label", ())

    @property
    def name(self) -> str:
        """The part of a name of which the manager is to list the containers that have it
        in theirs.
        """
        names = self._wanted.get("name", ())
        return names[0] if len(names) == 1 and _PLAIN.fullmatch(names[0]) else ""

    def match(self, container: Container) -> bool:
        return all(
            (all if key == "label" else any)(test(container) for test in tests)
            for key, tests in self._tests.items()
        )


def _name(value: str) -> Test:
    """A regular expression, as docker has it, for the name with or without its slash."""
    try:
        wanted = re.compile(value)
    except (re.error, RecursionError, OverflowError):
        raise ValueError(
            f"name={value}: this is not a regular expression; write for example name=web or "
            "name='^web$'"
        ) from None
    return lambda container: any(
        wanted.search(name) for name in (container.name, f"/{container.name}")
    )


def _status(value: str) -> Test:
    if value not in list(ContainerState):
        raise ValueError(f"{value!r} is not a state; use one of {', '.join(ContainerState)}")
    return lambda container: container.state == value


def _health(value: str) -> Test:
    if value not in list(Health):
        raise ValueError(f"{value!r} is not a health; use one of {', '.join(Health)}")
    return lambda container: (container.health or "none") == value


def _exited(value: str) -> Test:
    if not _EXIT_CODE.fullmatch(value) or int(value) > 255:
        raise ValueError(f"exited={value}: an exit code is a number from 0 to 255")
    return lambda container: container.state == "exited" and container.exit_code == int(value)


def _publish(value: str) -> Test:
    match = _PORTS.fullmatch(value)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if match is None or not 1 <= first <= last <= 65_535:
        raise ValueError(
            f"publish={value}: write a port from 1 to 65535, as 8080, 8080/udp or 8080-8090"
        )
    protocol = match[3] or "tcp"
    return lambda container: any(
        first <= port.host_port <= last and port.protocol == protocol for port in container.ports
    )


def _ancestor(value: str) -> Test:
    wanted = _whole_reference(value)
    return lambda container: _whole_reference(container.image) == wanted


def _whole_reference(image: str) -> str:
    """With the tag, and without the registry and the folder, that are meant if there are none."""
    image = image.removeprefix("docker.io/").removeprefix("library/")
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


_KEYS: Mapping[str, Callable[[str], Test]] = {
    "id": lambda value: lambda container: container.id.startswith(value.lower()),
    "name": _name,
    "label": lambda value: lambda container: has_label(container.raw["labels"], value),
    "status": _status,
    "health": _health,
    "exited": _exited,
    "ancestor": _ancestor,
    "publish": _publish,
}
