"""Options that several commands take: a dataclass of them stands for all in a signature.

@spread
def run(image: …, options: DockerOptions) -> None        has every field as an option
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer takes it, with the fields of its dataclass parameters as parameters."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[Any], tuple[str, ...]]] = {}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_dataclass(hint):
            groups[parameter.name] = (hint, tuple(field.name for field in fields(hint)))
            parameters += _of(hint)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hint))

    def called(**given: Any) -> None:
        made = {
            name: group(**{field: given.pop(field) for field in names})
            for name, (group, names) in groups.items()
        }
        command(**given, **made)

    setattr(called, "__signature__", Signature(parameters))  # noqa: B010 - it is what typer reads
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__module__ = command.__module__
    return called


def _of(group: type[Any]) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
