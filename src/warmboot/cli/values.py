"""Values of options and arguments: converted here, so that mistakes are told in our words.

typer leaves that to pydantic, whose messages are for programmers, and imports it even for what is
not given, which takes longer than most commands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from typer import core
from typer._click import core as commands
from typer._click import parser
from typer._click.exceptions import BadOptionUsage
from typer._coercion import TypeDescriptor, build_runtime_param

_WHOLE = re.compile(r"[+-]?[0-9]+")


def use_our_words() -> None:
    """Have our converters and our parser used in the place of typer's own."""
    setattr(core, "build_runtime_param", _Converter)  # noqa: B010 - it is not exported
    setattr(commands, "_OptionParser", _Parser)  # noqa: B010


class _Converter:
    """Of one parameter."""

    def __init__(self, descriptor: TypeDescriptor) -> None:
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        wanted: Any = self._descriptor.annotation
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        (kind,) = get_args(wanted) if get_origin(wanted) is list else (wanted,)
        if kind not in _KINDS:
            return build_runtime_param(self._descriptor).coerce(value, param=param, ctx=ctx)
        try:
            given = value if several else (value,)
            values = [_KINDS[kind](one, self._descriptor.parameter_info) for one in given]
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None
        return values if several else values[0]


def _text(value: Any, _: Any) -> str:
    return str(value)


def _whole_number(value: Any, limits: Any) -> int:
    if not _WHOLE.fullmatch(str(value)):
        raise ValueError(f"{value!r} is not a whole number")
    number = int(value)
    _check_range(number, limits)
    return number


def _number(value: Any, limits: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number")
    _check_range(number, limits)
    return number


def _check_range(number: float, limits: Any) -> None:
    least, most = limits.min, limits.max
    if least is not None and most is not None and not least <= number <= most:
        raise ValueError(f"{number:.12g} is not possible: use {least:.12g} to {most:.12g}")
    if least is not None and number < least:
        raise ValueError(f"{number:.12g} is not possible: use {least:.12g} or more")


def _path(value: Any, limits: Any) -> Path:
    path = Path(value)
    if limits.exists and not path.exists():
        raise ValueError(f"there is no file {value}")
    if limits.exists and not limits.dir_okay and path.is_dir():
        raise ValueError(f"{value} is a folder")
    return path


_KINDS: Mapping[Any, Callable[[Any, Any], Any]] = {
    str: _text,
    int: _whole_number,
    float: _number,
    Path: _path,
}


_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})


VALUE_OPTIONAL = frozenset({"--registry-auth"})
"""A value is in the same word, behind ``=``; without one, it is empty."""


class _Parser(parser._OptionParser):
    """Takes what docker takes: ``--rm=true``, ``-it=false``, ``-m=1g``."""

    def _match_long_opt(self, opt: str, explicit_value: str | None, state: Any) -> None:
        option = self._long_opt.get(opt)
        if opt in VALUE_OPTIONAL and explicit_value is None and option is not None:
            option.process("", state)
        elif option is None or option.takes_value or explicit_value is None:
            super()._match_long_opt(opt, explicit_value, state)
        else:
            _set_flag(option, opt, explicit_value, state)

    def _match_short_opt(self, arg: str, state: Any) -> None:
        letters, _, value = arg.partition("=")
        options = [self._short_opt.get(arg[0] + letter) for letter in letters[1:]]
        flags = [option for option in options if option is not None and not option.takes_value]
        last = options[-1] if options else None
        if not value or last is None or len(flags) < len(options) - 1:
            super()._match_short_opt(arg, state)
        elif last.takes_value:
            super()._match_short_opt(letters + value, state)
        else:
            if letters[1:-1]:
                super()._match_short_opt(letters[:-1], state)
            _set_flag(last, arg[0] + letters[-1], value, state)


def _set_flag(option: Any, name: str, value: str, state: Any) -> None:
    if not isinstance(option.const, bool):
        raise BadOptionUsage(name, f"Option {name!r} does not take a value.")
    if value not in _TRUE | _FALSE:
        raise BadOptionUsage(name, f"Option {name!r} is true or false, not {value!r}.")
    option.process(None, state)
    state.opts[option.dest] = option.const == (value in _TRUE)
