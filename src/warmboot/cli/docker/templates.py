"""``--format``: as much of Go's templates as docker's users type mostly. Pure functions.

Understood are ``{{.Field}}``, ``{{.Field.Sub}}``, ``{{json .}}`` and ``{{json .Field}}`` among
text, ``table`` before a template for columns with headings, and ``json`` alone for ``{{json .}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_PATH = re.compile(r"(?P<json>json\s+)?\.(?P<path>[A-Za-z_][\w.-]*)?")
_UNDERSTOOD = (
    "understood are {{.Field}}, {{.Field.Sub}}, {{json .}} and {{json .Field}}, 'table …' with "
    "columns divided by \\t, and 'json'; for more: --json, and a program that reads it"
)
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


@dataclass(frozen=True, slots=True)
class _Field:
    path: tuple[str, ...]
    as_json: bool


class Template:
    """``ValueError`` for what is not understood, and for a field that is not there."""

    def __init__(self, text: str) -> None:
        self.table = text.startswith("table ")
        text = text.removeprefix("table ").strip() if self.table else text
        if text == "json":
            text = "{{json .}}"
        for escape, meant in _ESCAPES.items():
            text = text.replace(escape, meant)
        self._parts = list(_parsed(text))
        if self.table and not any(isinstance(part, _Field) for part in self._parts):
            raise ValueError(
                f"a table has columns, as 'table {{{{.ID}}}}\\t{{{{.Names}}}}'; {text!r}"
            )

    def line(self, thing: Mapping[str, Any], parts: Mapping[str, Any] | None = None) -> str:
        """``parts`` are Docker's own, by name: for ``{{.Name.Sub}}`` and ``{{json .Name}}``."""
        return "".join(
            part if isinstance(part, str) else _shown(part, thing, parts or {})
            for part in self._parts
        )

    def asks_for(self, *names: str) -> bool:
        """Whether it shows one of these, or everything."""
        fields = [part for part in self._parts if isinstance(part, _Field)]
        wanted = {_joined(name) for name in names}
        return any(not field.path or _joined(field.path[0]) in wanted for field in fields)

    def cells(self, thing: Mapping[str, Any]) -> list[str]:
        """The cells of a table's row: what is between tabs."""
        return self.line(thing).split("\t")

    def headings(self, known: Mapping[str, str]) -> list[str]:
        """The headings of a table: as ``known`` has them, or the fields' names in capitals."""
        parts = (part if isinstance(part, str) else _heading(part, known) for part in self._parts)
        return "".join(parts).split("\t")


def _parsed(text: str) -> list[str | _Field]:
    parts: list[str | _Field] = []
    at = 0
    for action in _ACTION.finditer(text):
        _plain(parts, text[at : action.start()])
        at = action.end()
        match = _PATH.fullmatch(action[1])
        if match is None or (not match["json"] and not match["path"]):
            raise ValueError(f"{action[0]} is not understood; {_UNDERSTOOD}")
        names = (match["path"] or "").split(".") if match["path"] else []
        if "" in names:
            raise ValueError(f"{action[0]} is not understood; {_UNDERSTOOD}")
        parts.append(_Field(tuple(names), bool(match["json"])))
    _plain(parts, text[at:])
    return parts


def _plain(parts: list[str | _Field], text: str) -> None:
    if "{{" in text or "}}" in text:
        raise ValueError(f"{text!r} is not understood: braces do not match; {_UNDERSTOOD}")
    if text:
        parts.append(text)


def _shown(field: _Field, thing: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    whole = field.as_json or len(field.path) > 1
    value: Any = parts if whole and field.path and field.path[0] in parts else thing
    for number, name in enumerate(field.path):
        value = _member(value, name, field.path[:number])
    return json.dumps(value, ensure_ascii=False) if field.as_json else _go(value)


def _member(value: Any, name: str, before: Sequence[str]) -> Any:
    """A member by its name, however its words are joined: ``ExitCode`` is ``exit_code``."""
    where = "".join(f".{one}" for one in before)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} has no fields, and so no .{name}")  # noqa: TRY004 - not a bug
    if name in value:
        return value[name]
    for key in value:
        if _joined(str(key)) == _joined(name):
            return value[key]
    there = ", ".join(f"{where}.{key}" for key in value)
    raise ValueError(f"there is no field {where}.{name}; there are: {there or 'none'}")


def _joined(name: str) -> str:
    return name.replace("_", "").lower()


def _go(value: Any) -> str:
    """As Go prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return str(value).lower()
        case Mapping():
            return f"map[{' '.join(f'{key}:{_go(value[key])}' for key in sorted(value))}]"
        case list():
            return f"[{' '.join(_go(one) for one in value)}]"
    return str(value)


def _heading(field: _Field, known: Mapping[str, str]) -> str:
    name = field.path[-1] if field.path else ""
    return known.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).upper())
