"""``--filter`` of ``warmboot ps``: for each key one value must match, for labels all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from warmboot.model.container import ContainerState
from warmboot.model.conventions.labels import has_label

if TYPE_CHECKING:
    from warmboot.client.results import Container

_TESTS: Mapping[str, Callable[[Container, str], bool]] = {
    "id": lambda container, value: container.id.startswith(value.lower()),
    "name": lambda container, value: value.removeprefix("/") in container.name,
    "label": lambda container, value: has_label(container.raw["labels"], value),
    "status": lambda container, value: container.state == value,
    "exited": lambda container, value: (
        container.state == "exited" and str(container.exit_code) == value
    ),
    "ancestor": lambda container, value: container.image in (value, f"{value}:latest"),
    "publish": lambda container, value: _publishes(container, value),
}


class Filters:
    """``ValueError`` says what is wrong with one."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._wanted: defaultdict[str, list[str]] = defaultdict(list)
        for entry in entries:
            key, assigned, value = entry.partition("=")
            if not assigned or key not in _TESTS:
                raise ValueError(f"{entry!r}: write {', '.join(f'{known}=…' for known in _TESTS)}")
            if key == "status" and value not in list(ContainerState):
                raise ValueError(
                    f"{value!r} is not a state; use one of {', '.join(ContainerState)}"
                )
            self._wanted[key].append(value)

    @property
    def any_state(self) -> bool:
        """Who asks for a state asks for those too that do not run, as with docker."""
        return "status" in self._wanted

    @property
    def states(self) -> Sequence[str]:
        """For the manager to choose by: those in one of them."""
        return self._wanted.get("status", ())

    @property
    def labels(self) -> Sequence[str]:
        """For the manager to choose by: those with all of them."""
        return self._wanted.get("label", ())

    def match(self, container: Container) -> bool:
        return all(
            (all if key == "label" else any)(_TESTS[key](container, value) for value in values)
            for key, values in self._wanted.items()
        )


def _publishes(container: Container, wanted: str) -> bool:
    number, _, protocol = wanted.partition("/")
    return any(
        (str(port.host_port), port.protocol) == (number, protocol or "tcp")
        for port in container.ports
    )
