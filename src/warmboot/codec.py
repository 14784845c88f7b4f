"""Values of the model as JSON text and back, by pydantic, after their type hints.

``decode(tp, encode(tp, value)) == value`` for every value of the model. Both are strict: a value of
another type, an unknown key or a missing key without a default is refused, so that damage is found
where it is read and not three calls later. A key with a default may be missing, so that a field can
be added to the model without rewriting what is stored.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NewType, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from warmboot.model.errors import WarmbootError

T = TypeVar("T")
Unknown = Literal["forbid", "ignore"]

_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)
_MOST_TOLD = 3
_SHOWN = frozenset({"datetime_from_date_parsing", "enum", "uuid_parsing"})
"""Errors that show the value itself. Of others it may be long, or nobody's business: its type."""


class CodecError(ValueError):
    """A value does not fit its type; says where: ``ContainerSpec.ports[0].host_port: Input …``."""


def encode(tp: Any, value: Any) -> str:
    """``value`` as JSON. ``CodecError`` if it is no ``tp``, or would not be read as it is."""
    try:
        text = adapter(tp).dump_json(value, warnings="error")
    except PydanticSerializationError as error:
        raise CodecError(str(error)) from error
    if decode(tp, text) != value:
        raise CodecError(f"{_name(tp)}: it would not be read as it is written")
    return text.decode()


def decode(tp: type[T], text: str | bytes, *, unknown: Unknown = "forbid") -> T:
    """The ``tp`` in ``text``, or ``CodecError``. ``unknown`` keys are such at any depth."""
    coder: TypeAdapter[T] = adapter(cast("Any", tp), unknown)
    try:
        return coder.validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[:_MOST_TOLD]
        raise CodecError("; ".join(_name(tp) + _described(one) for one in found)) from error
    except WarmbootError as error:  # it cannot be, whatever its fields' types
        raise CodecError(f"{_name(tp)}: {error.brief}") from error


@cache
def adapter(tp: Any, unknown: Unknown = "forbid") -> TypeAdapter[Any]:
    """The adapter of a type, built once; ``PydanticSchemaGenerationError`` if it has none."""
    # A plain dataclass takes its configuration from what it is in, never from the adapter itself.
    return TypeAdapter(cast("Any", NewType("Value", tp)), config=_CONFIG | {"extra": unknown})


def _described(error: ErrorDetails) -> str:
    where = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in error["loc"])
    problem = error["msg"]
    if error["type"] in _SHOWN:
        problem += f", found {error['input']!r:.80}"
    elif error["type"].endswith("_type"):
        problem += f", found {type(error['input']).__name__}"
    return f"{where}: {problem}"


def _name(tp: Any) -> str:
    return tp.__name__ if isinstance(tp, type) else ""
