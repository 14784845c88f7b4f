"""How a label is asked for, as in docker: ``NAME`` or ``NAME=VALUE``."""

from __future__ import annotations

from collections.abc import Mapping


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, assigned, value = wanted.partition("=")
    return name in labels and (not assigned or labels[name] == value)
