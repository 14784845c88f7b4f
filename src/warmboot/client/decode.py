"""The API's answers as the client's dataclasses, after their type hints.

A newer manager says more than a dataclass names: that is left out. An older one says less: what has
a default may be missing. A field ``raw`` gets the answer as it came. Not by pydantic, as the
manager does it: a client would have to install and import more for it than for all else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from warmboot.model.errors import Unavailable

T = TypeVar("T")

PART_ITEMS = 200
"""Of a long list; as many as are read and sent in a moment."""


_WAIT_S = 300.0
"""How long the manager is asked to wait at a time, in seconds."""


class _NotUnderstood(ValueError):
    pass


def decoded(tp: type[T], answer: Any) -> T:
    """The value of type ``tp`` in ``answer``; ``Unavailable`` if there is none in it."""
    read: Callable[[Any], T] = _reader(cast("Any", tp))
    try:
        return read(answer)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unavailable(
            "the manager's answer is not understood",
            details=str(error),
            resolution="use the client of the manager's version: see `warmboot --version`",
        ) from error


def item(tp: type[T], answer: Mapping[str, Any]) -> T:
    """The thing in an answer ``{"item": …}``."""
    return decoded(tp, answer.get("item"))


def items(tp: type[T], answer: Mapping[str, Any]) -> list[T]:
    """The things in an answer ``{"items": […]}``."""
    things = answer["items"]
    return [decoded(tp, one) for one in (things if isinstance(things, list) else [things])]


async def all_items(
    tp: type[T],
    get: Callable[[str, Mapping[str, Any]], Awaitable[Any]],
    path: str,
    params: Mapping[str, Any] | None = None,
) -> AsyncIterator[T]:
    """The items of a whole list, page by page. An older manager sends all items at once."""
    wanted: dict[str, Any] = {**(params or {}), "limit": PART_ITEMS}
    while True:
        answer = await get(path, wanted)
        for one in items(tp, answer):
            yield one
        wanted["cursor"] = answer.get("next_cursor")
        if wanted["cursor"] is None:
            return


@cache
def _reader(tp: Any) -> Callable[[Any], Any]:
    if is_dataclass(tp):
        return _dataclass_reader(cast("type[Any]", tp))
    if tp is datetime:
        return datetime.fromisoformat
    origin, arguments = get_origin(tp), get_args(tp)
    if NoneType in arguments:
        (known,) = (_reader(one) for one in arguments if one is not NoneType)
        return lambda value: None if value is None else known(value)
    if origin is tuple:
        each = _reader(arguments[0])
        return lambda values: tuple(each(value) for value in values)
    if origin is Mapping and arguments[1] is not Any:
        each = _reader(arguments[1])
        return lambda values: {key: each(value) for key, value in values.items()}
    return lambda value: value


def _dataclass_reader(tp: type[Any]) -> Callable[[Any], Any]:
    hints = get_type_hints(tp)
    readers = {field.name: _reader(hints[field.name]) for field in fields(tp)}
    defaults = {field.name for field in fields(tp) if field.default is not MISSING}

    def read(answer: Any) -> Any:
        if not isinstance(answer, dict):
            raise _NotUnderstood(f"{tp.__name__}: {answer!r:.80} is no object")
        told = {**answer, "raw": answer}
        if missing := readers.keys() - defaults - told.keys():
            raise _NotUnderstood(f"{tp.__name__} lacks {', '.join(sorted(missing))}")
        values: dict[str, Any] = {}
        for name in readers.keys() & told.keys():
            try:
                values[name] = readers[name](told[name])
            except _NotUnderstood:
                raise
            except (TypeError, ValueError, AttributeError) as error:
                raise _NotUnderstood(f"{tp.__name__}.{name}: {error}") from error
        return tp(**values)

    return read


async def wait_for(
    ask: Callable[[float], Awaitable[T]], holds: Callable[[T], bool], timeout_s: float | None
) -> T:
    """What ``ask`` last answered: when it ``holds``, or the time (``None``: no end) is over.

    ``ask`` gets the seconds that the manager may wait before it answers.
    """
    clock = asyncio.get_running_loop().time
    deadline = None if timeout_s is None else clock() + timeout_s
    while True:
        left_s = _WAIT_S if deadline is None else min(_WAIT_S, max(0.0, deadline - clock()))
        answer = await ask(left_s)
        if holds(answer) or (deadline is not None and clock() >= deadline):
            return answer
