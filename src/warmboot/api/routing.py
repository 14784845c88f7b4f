"""Dependencies and types that all routes share: services, path parameters, JSON bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol, TypeVar, get_origin
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import Field
from starlette.requests import HTTPConnection

from warmboot.api.schemas.requests import CURSOR_PATTERN, NAME_PATTERN, NO_NUL_PATTERN
from warmboot.api.schemas.responses import Paged
from warmboot.manager.protocols import Services
from warmboot.model.container import ContainerSpec
from warmboot.model.conventions.labels import has_label
from warmboot.model.conventions.names import MAX_NAME_LENGTH
from warmboot.model.conventions.pages import Page, PageRequest, Position
from warmboot.model.tenants.engine import EngineSpec
from warmboot.model.worker import WorkerSpec

MAX_WAIT_S = 3600.0
MAX_INT64 = 2**63 - 1
MAX_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _query_parameters(dependant: Dependant) -> Iterator[Any]:
    yield from dependant.query_params
    for needed in dependant.dependencies:
        yield from _query_parameters(needed)


async def check_parameters(connection: HTTPConnection) -> None:
    """Refuses those that are unknown, or given twice where one is meant.

    A misspelt one would be as good as none, the first of two as well, and nobody would be told.
    Who asks whether the service is well may send what it likes: balancers and caches do.
    """
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute | APIWebSocketRoute) or route.path in _HEALTH:
        return
    known = {field.alias: field for field in _query_parameters(route.dependant)}
    there_are = f"there are {', '.join(known)}" if known else "there are none"
    given = Counter(name for name, _ in connection.query_params.multi_items())
    wrong = {
        name: f"it is given {times} times, and may be given once"
        if name in known
        else f"there is no such parameter here; {there_are}"
        for name, times in given.items()
        if name not in known or (times > 1 and not _takes_several(known[name]))
    }
    if wrong:
        is_session = connection.scope["type"] == "websocket"
        refused = WebSocketRequestValidationError if is_session else RequestValidationError
        raise refused(
            [
                {"type": "value_error", "loc": ("query", name), "msg": why}
                for name, why in wrong.items()
            ]
        )


async def check_no_body(connection: HTTPConnection) -> None:
    """Refuses a body where none is meant: what it says would be as good as not said."""
    route = connection.scope.get("route")
    if (
        not isinstance(connection, Request)
        or not isinstance(route, APIRoute)
        or not {"POST", "PUT", "PATCH"} & (route.methods or set())
        or route.body_field is not None
        or "requestBody" in (route.openapi_extra or {})
    ):
        return
    if (await connection.body()).strip() not in (b"", b"{}", b"null"):
        why = "nothing is read from it; this request has query parameters only, see /docs"
        raise RequestValidationError([{"type": "value_error", "loc": ("body",), "msg": why}])


def _takes_several(field: Any) -> bool:
    return get_origin(field.field_info.annotation) is tuple


_HEALTH = frozenset({"/healthz", "/readyz"})

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


def _paging(
    limit: Annotated[
        int | None,
        Query(ge=1, le=MAX_PAGE, description="how many items at most; left out, all of them"),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(
            pattern=CURSOR_PATTERN,
            description="the next_cursor of the part before; left out, the list from its start",
        ),
    ] = None,
) -> PageRequest:
    if cursor is None:
        return PageRequest(limit)
    microseconds, _, id_ = cursor.partition("-")
    created_at = _EPOCH + timedelta(microseconds=int(microseconds))
    return PageRequest(limit, Position(created_at, UUID(id_)))


Paging = Annotated[PageRequest, Depends(_paging)]
Part = Annotated[str, Query(max_length=256, pattern=NO_NUL_PATTERN, description="part of a name")]
Labels = Annotated[
    tuple[Annotated[str, Field(max_length=4400, pattern=NO_NUL_PATTERN)], ...],
    Query(max_length=32, description="labels that it has, each NAME or NAME=VALUE"),
]


def named(wanted: PageRequest, part: str) -> PageRequest:
    """Of things with ``part`` in their name alone."""
    return replace(wanted, name_part=part)


class _Labelled(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> ContainerSpec | EngineSpec | WorkerSpec: ...


def as_asked(name: str, labels: Sequence[str]) -> Callable[[_Labelled], bool]:
    """Whether a thing has ``name`` in its name, and all of the labels."""
    return lambda thing: (
        name in thing.name and all(has_label(thing.spec.labels, one) for one in labels)
    )


def paged(page: Page[T], told: Callable[[T], Any]) -> Paged[Any]:
    """A part of a list as it is answered."""
    cursor = None
    if page.last is not None:
        microseconds = (page.last.created_at - _EPOCH) // timedelta(microseconds=1)
        cursor = f"{microseconds}-{page.last.id.hex}"
    return Paged(items=[told(thing) for thing in page.things], next_cursor=cursor)
