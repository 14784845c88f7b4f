"""The ASGI application: routers, middleware and error handlers.

    after response ▶ errors ▶ metrics ▶ auth ▶ body ▶ idempotency ▶ routes ▶ Services

All middleware is pure ASGI, so that streams stay streams.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from prometheus_client import CollectorRegistry

from warmboot import __version__
from warmboot.api.middleware.after_response import AfterResponseMiddleware
from warmboot.api.middleware.auth import AuthMiddleware, Peers, WorkerOf
from warmboot.api.middleware.body import BodyMiddleware
from warmboot.api.middleware.idempotency import IdempotencyMiddleware, Repository
from warmboot.api.middleware.metrics import MetricsMiddleware
from warmboot.api.middleware.peers import LoopbackPeers
from warmboot.api.openapi import install_openapi
from warmboot.api.page import install_page
from warmboot.api.problems import ErrorMiddleware, install_handlers
from warmboot.api.reference import install_reference
from warmboot.api.routes import (
    archives,
    checkpoints,
    container_files,
    containers,
    engines,
    events,
    garbage,
    runtime_images,
    runtime_snapshots,
    snapshot_forms,
    system,
    usage,
    workers,
)
from warmboot.api.routing import check_no_body, check_parameters
from warmboot.manager.protocols import Services
from warmboot.model.shapes import Shape

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

ROUTERS = (
    runtime_images.router,
    runtime_snapshots.router,
    snapshot_forms.router,
    containers.router,
    container_files.router,
    engines.router,
    archives.router,
    checkpoints.router,
    workers.router,
    events.router,
    garbage.router,
    system.router,
    usage.router,
)

# One for all applications of a process, as FastAPI takes half a second to prepare its routes when
# they are first used. A function is named as the operation is to be called in a client.
_API = APIRouter(generate_unique_id_function=lambda route: route.name)
for _router in ROUTERS:
    _API.include_router(_router, dependencies=[Depends(check_parameters), Depends(check_no_body)])


def create_app(
    services: Services,
    *,
    tokens: frozenset[str] = frozenset(),
    idempotency: Repository | None = None,
    worker_of: WorkerOf | None = None,
    registry: CollectorRegistry | None = None,
    lifespan: Lifespan | None = None,
    peers: Peers | None = None,
    advice: str = "",
    largest: Shape | None = None,
) -> FastAPI:
    """The API over ``services``.

    ``tokens`` are bearer tokens; without one in a request, ``peers`` says who is root on this
    machine, and ``advice`` is what those are told who are not (see ``middleware.auth``).
    ``worker_of`` knows workers' tokens. Without ``idempotency`` keys are not honoured.
    ``registry`` is where requests are counted. The document tells of the ``largest`` shape here.
    """
    registry = registry or CollectorRegistry()
    app = FastAPI(
        title="warmboot",
        version=__version__,
        description="Containers in microVMs that start warm.",
        docs_url=None,
        openapi_url=None,  # ``install_openapi`` serves it
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        routes=_API.routes,
    )
    app.state.services = services
    app.state.registry = registry
    app.state.routes = [route for router in ROUTERS for route in router.routes]
    install_handlers(app)
    install_openapi(app, tokens=bool(tokens), largest=largest)
    install_reference(app)
    install_page(app)
    layers: list[tuple[Any, dict[str, Any]]] = [
        (AfterResponseMiddleware, {}),
        (ErrorMiddleware, {}),
        (MetricsMiddleware, {"registry": registry}),
        (
            AuthMiddleware,
            {
                "tokens": tokens,
                "worker_of": worker_of,
                "peers": peers or LoopbackPeers(),
                "advice": advice,
            },
        ),
        (BodyMiddleware, {}),
    ]
    if idempotency is not None:
        layers.append((IdempotencyMiddleware, {"repository": idempotency}))
    for layer, options in reversed(layers):
        app.add_middleware(layer, **options)
    return app
