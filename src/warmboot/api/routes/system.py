"""Routes of the service itself: health checks, metrics, information on the machine, doctor."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest

from warmboot.api.middleware.metrics import Together
from warmboot.api.routing import Wired
from warmboot.api.schemas.responses import Item, Items, Ok
from warmboot.api.schemas.system_responses import CheckOut, HostInfoOut

router = APIRouter(tags=["system"])


@router.get("/healthz", summary="The process answers")
async def check_health() -> Ok:
    return Ok()


@router.get("/readyz", summary="What it depends on answers too")
async def check_readiness(services: Wired) -> Ok:
    await services.system.info()
    return Ok()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def get_metrics(request: Request, services: Wired) -> Response:
    """Needs a token where the API needs one."""
    parts: list[Iterable[Metric]] = [request.app.state.registry.collect()]
    if services.metrics is not None:
        parts += [services.metrics.registry.collect(), await services.metrics.collect()]
    return Response(generate_latest(Together(parts)), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/info", summary="This machine and its hypervisor")
async def get_info(services: Wired) -> Item[HostInfoOut]:
    return Item(item=HostInfoOut.of(await services.system.info()))


@router.get("/v1/doctor", summary="What works here, what does not, why, and what to do")
async def run_doctor(services: Wired) -> Items[CheckOut]:
    return Items(items=[CheckOut.of(check) for check in await services.system.doctor()])
