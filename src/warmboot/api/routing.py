"""Dependencies and types that all routes share: services, path parameters, JSON bodies."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Query, Request

from warmboot.api.schemas.requests import NAME_PATTERN
from warmboot.manager.ports import Services
from warmboot.model.conventions.names import MAX_NAME_LENGTH

MAX_WAIT_S = 3600.0
MAX_INT64 = 2**63 - 1


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


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
Id = Annotated[UUID, Path()]
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
