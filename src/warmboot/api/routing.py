"""Dependencies and types that all routes share: services, path parameters, JSON bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from warmboot.api.schemas.requests import NAME_PATTERN
from warmboot.manager.ports import Services
from warmboot.model.conventions.names import MAX_NAME_LENGTH

MAX_WAIT_S = 3600.0
MAX_INT64 = 2**63 - 1


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    for parameter in dependant.query_params:
        yield parameter.alias
    for needed in dependant.dependencies:
        yield from _query_parameters(needed)


async def refuse_unknown_parameters(connection: HTTPConnection) -> None:
    """A misspelt one would be as good as none, and nobody would be told.

    Probes and scrapers may send what they like: only the resources' routes are asked for.
    """
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute) or not route.path.startswith("/v1/"):
        return
    known = list(_query_parameters(route.dependant))
    unknown = [name for name in connection.query_params if name not in known]
    if unknown:
        there_are = f"there are {', '.join(known)}" if known else "there are none"
        raise RequestValidationError(
            [
                {
                    "type": "value_error",
                    "loc": ("query", name),
                    "msg": f"there is no such parameter here; {there_are}",
                }
                for name in unknown
            ]
        )


Wired = Annotated[Services, Depends(_services)]

Ref = Annotated[
    str,
    Path(
        description="an id, the unique beginning of one, or a name",
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        pattern=NAME_PATTERN,
    ),
]
Id = Annotated[UUID, Path(description="an id")]
WaitTimeout = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="seconds to wait at most"),
]
StopTimeout = Annotated[
    float | None,
    Query(
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="seconds to wait before the container is killed; left out: its own "
        "stop_timeout_s, or 10",
    ),
]
