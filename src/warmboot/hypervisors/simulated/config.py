"""Delays and faults of a simulated VM. They can be changed while VMs run, by a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


class When(StrEnum):
    """The VMs in which a fault shows: none, those that were booted, those that were
    restored, or all.
    """

    NEVER = "never"
    BOOT = "boot"
    RESTORE = "restore"
    ALWAYS = "always"

    def applies(self, origin: str) -> bool:
        return self in (When.ALWAYS, origin)


@dataclass(frozen=True, slots=True)
class SimulatedConfig:
    """What a simulated hypervisor does, and what it does wrong.

    ``boot_s``: from the start until the guest agent answers; ``docker_s``: from then until Docker
    does; ``restore_s``: how long a restore takes; ``pull_s``: an image pull. All in seconds.

    ``fail_boot``, ``fail_restore``, ``fail_save``: the call fails. ``docker_never_ready``: Docker
    never answers. ``agent_silent``: the guest agent takes connections and says nothing.
    ``disk_full``: the host has no room for what the guest writes, as it does for every request that
    changes something; the VM stands still then.
    ``die_after_s``: the VMM process ends by itself so long after its start, in VMs of ``die``.

    ``version``, ``accelerator``, ``machine`` and ``cpu_model`` are what snapshots are bound to.

    ``overrides`` is a JSON file with any of these fields; it is read again before every use, so
    that delays and faults can be changed under running VMs. It need not exist.
    """

    boot_s: float = 0.5
    docker_s: float = 1.0
    restore_s: float = 0.02
    pull_s: float = 0.0
    fail_boot: bool = False
    fail_restore: bool = False
    fail_save: bool = False
    docker_never_ready: When = When.NEVER
    agent_silent: When = When.NEVER
    disk_full: When = When.NEVER
    die_after_s: float | None = None
    die: When = When.ALWAYS
    version: str = "1.0"
    accelerator: str = "none"
    machine: str = "simulated"
    cpu_model: str = "simulated"
    overrides: Path | None = None

    def current(self) -> SimulatedConfig:
        """This config with the overrides of this moment. ``ValueError`` if they are bad."""
        if self.overrides is None:
            return self
        try:
            text = self.overrides.read_text()
        except FileNotFoundError:
            return self
        try:
            changes = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.overrides} is not JSON: {error}") from error
        return replace(self, **_checked(changes, str(self.overrides)))

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["overrides"] = str(self.overrides) if self.overrides else None
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> SimulatedConfig:
        values = json.loads(text)
        overrides = values.pop("overrides")
        path = Path(overrides) if overrides else None
        return cls(**_checked(values, "config"), overrides=path)


def _checked(changes: object, source: str) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise ValueError(f"{source} holds no JSON object")  # noqa: TRY004
    kinds = {field.name: str(field.type) for field in fields(SimulatedConfig)}
    del kinds["overrides"]
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in kinds:
            raise ValueError(f"{source}: unknown field {name!r}; there are {', '.join(kinds)}")
        checked[name] = _convert(kinds[name], value, f"{source}: {name}")
    return checked


def _convert(kind: str, value: object, where: str) -> object:
    if kind == "When":
        if isinstance(value, bool):
            return When.ALWAYS if value else When.NEVER
        return When(str(value))
    if value is None and kind.endswith("None"):
        return None
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("float") and is_number:
        return value
    raise ValueError(f"{where}: {value!r} is no {kind}")
