"""Where each command is: it is imported and built when it is called, the others are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import typer


@dataclass(frozen=True, slots=True)
class Place:
    """A function, or a group, in a module of ``warmboot.cli.commands``.

    ``brief`` is the first line of its help, for completion: a test compares them. ``settings`` are
    those of ``typer.Typer.command``; a ``cls`` in it is named, as it is in that module.
    """

    module: str
    attribute: str
    panel: str
    brief: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, name: str) -> Any:
        module = import_module(f"warmboot.cli.commands.{self.module}")
        found = getattr(module, self.attribute)
        if not isinstance(found, typer.Typer):
            settings = dict(self.settings)
            if "cls" in settings:
                settings["cls"] = getattr(module, settings["cls"])
            app = typer.Typer(add_completion=False)
            app.command(name, **settings)(found)
            found = app
        command: Any = typer.main.get_command(found)
        command.name, command.rich_help_panel = name, self.panel
        return command


class Directory(MutableMapping[str, Any]):
    """Commands by name, as a group of typer has them; each is built when it is first got."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = self._places[name].build(name)
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("commands are listed in warmboot.cli.main")

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are listed in warmboot.cli.main")
