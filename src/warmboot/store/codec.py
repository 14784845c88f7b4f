"""Frozen dataclasses to JSON and back, driven by their type hints.

``encode(tp, value)`` makes what ``json.dumps`` takes, ``decode(tp, data)`` makes the value again,
and ``decode(tp, encode(tp, value)) == value`` for every value of the model. Both are strict: a
value of another type, an unknown key or a missing key without a default is refused, so that damage
is found where it is read and not three calls later. A key with a default may be missing, so that a
field can be added to the model without rewriting rows.

``plain(value)`` is for what has no type: events' data, errors, notes of a saga. It is lenient,
since an error report must not fail over what it reports.

Coders are built once per type and kept.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from warmboot.model.errors import InvalidRequest, WarmbootError


class CodecError(ValueError):
    """``where`` leads to the culprit, e.g. ``.ports[0].host_port``."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem

    def inside(self, outer: str) -> CodecError:
        return CodecError(f"{outer}{self.where}", self.problem)


class Coder(NamedTuple):
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def encode(tp: Any, value: Any) -> Any:
    """``value`` as JSON data. ``CodecError`` if it is no ``tp``; ``InvalidRequest`` on bad text."""
    return coder(tp).encode(value)


def decode(tp: Any, data: Any) -> Any:
    """The ``tp`` in ``data``, or ``CodecError``."""
    return coder(tp).decode(data)


def is_storable(text: str) -> bool:
    """Whether both databases can hold ``text``: no NUL, no half of a surrogate pair."""
    return (text.isascii() and "\0" not in text) or _is_clean(text)


def check_text(text: str) -> str:
    """Return ``text``, or raise ``InvalidRequest`` if a database cannot hold it."""
    if not is_storable(text):
        raise InvalidRequest(
            "a text holds a character that cannot be stored",
            details=f"in {text[:80]!r}: NUL characters and lone surrogates are not text",
            resolution="leave it out",
        )
    return text


def _is_clean(text: str) -> bool:
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def plain(value: Any) -> Any:
    """Untyped ``value`` as JSON data; what is no JSON is written as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return value if is_storable(value) else _mended(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_mended(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _mended(str(value))


def _mended(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


@cache
def coder(tp: Any) -> Coder:
    """The coder of ``tp``; ``TypeError`` for a type that has none."""
    if tp is Any:
        return Coder(plain, _same)
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return _dataclass(tp)
    if isinstance(tp, type) and issubclass(tp, Enum):
        return _enum(tp)
    if tp in _SCALARS:
        return _SCALARS[tp]
    origin, arguments = typing.get_origin(tp), typing.get_args(tp)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(coder(arguments[0]))
    if origin is Mapping and arguments == (str, Any):
        return Coder(lambda value: plain(_expect_mapping(value)), lambda data: _expect(data, dict))
    if origin is Mapping and arguments[0] is str:
        return _mapping(coder(arguments[1]))
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2:
        rest = [argument for argument in arguments if argument is not types.NoneType]
        if len(rest) == 1:
            return _optional(coder(rest[0]))
    raise TypeError(f"{tp} has no coder")


def _same(value: Any) -> Any:
    return value


def _expect(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise CodecError("", f"expected {wanted.__name__}, found {type(value).__name__}")
    return value


def _expect_mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise CodecError("", f"expected a mapping, found {type(value).__name__}")
    return value


def _encode_text(value: Any) -> str:
    return check_text(_expect(value, str))


def _encode_float(value: Any) -> float:
    if type(value) not in (float, int) or not math.isfinite(value):
        raise CodecError("", f"expected a finite float, found {value!r}")
    return float(value)


def _encode_path(value: Any) -> str:
    if not isinstance(value, Path):
        raise CodecError("", f"expected Path, found {type(value).__name__}")
    return check_text(str(value))


def _decode_uuid(data: Any) -> UUID:
    try:
        return UUID(_expect(data, str))
    except ValueError as exc:
        raise CodecError("", f"{data!r} is no UUID") from exc


def _encode_time(value: Any) -> str:
    moment: datetime = _expect(value, datetime)
    if moment.tzinfo is None:
        raise CodecError("", "a time without a time zone")
    return moment.astimezone(UTC).isoformat()


def _decode_time(data: Any) -> datetime:
    try:
        return datetime.fromisoformat(_expect(data, str)).astimezone(UTC)
    except ValueError as exc:
        raise CodecError("", f"{data!r} is no time") from exc


_SCALARS: dict[Any, Coder] = {
    str: Coder(_encode_text, lambda data: _expect(data, str)),
    int: Coder(lambda value: _expect(value, int), lambda data: _expect(data, int)),
    bool: Coder(lambda value: _expect(value, bool), lambda data: _expect(data, bool)),
    # JSONB keeps numbers as decimals: 1e16 comes back as an integer.
    float: Coder(_encode_float, _encode_float),
    Path: Coder(_encode_path, lambda data: Path(_expect(data, str))),
    UUID: Coder(lambda value: str(_expect(value, UUID)), _decode_uuid),
    datetime: Coder(_encode_time, _decode_time),
}


def _enum(tp: type[Enum]) -> Coder:
    members = {member.value: member for member in tp}

    def decode_member(data: Any) -> Enum:
        try:
            return members[data]
        except (KeyError, TypeError) as exc:
            raise CodecError("", f"{data!r} is no {tp.__name__}") from exc

    return Coder(lambda value: _expect(value, tp).value, decode_member)


def _optional(inner: Coder) -> Coder:
    return Coder(
        lambda value: None if value is None else inner.encode(value),
        lambda data: None if data is None else inner.decode(data),
    )


def _sequence(inner: Coder) -> Coder:
    def each(items: Any, wanted: type, code: Callable[[Any], Any]) -> list[Any]:
        _expect(items, wanted)
        done: list[Any] = []
        try:
            for item in items:
                done.append(code(item))
        except CodecError as exc:
            raise exc.inside(f"[{len(done)}]") from exc
        return done

    return Coder(
        lambda value: each(value, tuple, inner.encode),
        lambda data: tuple(each(data, list, inner.decode)),
    )


def _mapping(inner: Coder) -> Coder:
    def each(items: Mapping[Any, Any], code: Callable[[Any], Any]) -> dict[str, Any]:
        done: dict[str, Any] = {}
        key: Any = None
        try:
            for key, item in items.items():
                done[_encode_text(key)] = code(item)
        except CodecError as exc:
            raise exc.inside(f"[{key!r}]") from exc
        return done

    def encode_mapping(value: Any) -> dict[str, Any]:
        return each(_expect_mapping(value), inner.encode)

    return Coder(encode_mapping, lambda data: each(_expect(data, dict), inner.decode))


def _dataclass(tp: type) -> Coder:
    hints = typing.get_type_hints(tp)
    fields = [field for field in dataclasses.fields(tp) if field.init]
    coders = {field.name: coder(hints[field.name]) for field in fields}
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def encode_fields(value: Any) -> dict[str, Any]:
        _expect(value, tp)
        data: dict[str, Any] = {}
        name = ""
        try:
            for name, each in coders.items():
                data[name] = each.encode(getattr(value, name))
        except CodecError as exc:
            raise exc.inside(f".{name}") from exc
        return data

    def decode_fields(data: Any) -> Any:
        _expect(data, dict)
        if missing := required - data.keys():
            raise CodecError("", f"{tp.__name__} lacks {', '.join(sorted(missing))}")
        if unknown := data.keys() - coders.keys():
            raise CodecError("", f"{tp.__name__} has no {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {}
        name = ""
        try:
            for name, item in data.items():
                values[name] = coders[name].decode(item)
        except CodecError as exc:
            raise exc.inside(f".{name}") from exc
        try:
            return tp(**values)
        except WarmbootError as exc:
            raise CodecError("", exc.brief) from exc

    return Coder(encode_fields, decode_fields)
