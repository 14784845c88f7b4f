"""Compares what several VMs are that go on from one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """``own``: what no other may have. ``shared``: what all were given, and must have kept."""

    own: Mapping[str, str]
    shared: Mapping[str, str]


def faults(found: Mapping[str, Identity]) -> list[str]:
    """What is wrong with identities, by the name of whose they are: nothing, it is hoped."""
    wrong = []
    for key in sorted({key for one in found.values() for key in one.own}):
        for value, names in _by_value({name: one.own.get(key) for name, one in found.items()}):
            if not value or len(names) > 1:
                wrong.append(f"{key} is {value!r} in {', '.join(names)}")
    for key in sorted({key for one in found.values() for key in one.shared}):
        values = _by_value({name: one.shared.get(key) for name, one in found.items()})
        for value, names in values:
            if not value or len(values) > 1:
                wrong.append(f"{key} is {value!r} in {', '.join(names)} alone")
    return wrong


def _by_value(values: Mapping[str, str | None]) -> list[tuple[str | None, list[str]]]:
    return [
        (value, [name for name, other in values.items() if other == value])
        for value in dict.fromkeys(values.values())
    ]
