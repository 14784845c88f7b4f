"""HTTP metrics: requests by method, route and status, and how long they took; what is shown."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"})


class Together(Collector):
    """What was counted here and there, and what is there, in one answer."""

    def __init__(self, parts: Iterable[Iterable[Metric]]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        return chain.from_iterable(self._parts)


class MetricsMiddleware:
    """Counts every HTTP request; the route's template, never the path, is the label."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self.app = app
        self._requests = Counter(
            "warmboot_http_requests", "Requests", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "warmboot_http_first_byte_seconds",
            "From a request to the head of its answer",
            ("method", "route"),
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        method = scope["method"] if scope["method"] in _METHODS else "other"

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._requests.labels(method, route, str(message["status"])).inc()
                self._seconds.labels(method, route).observe(time.monotonic() - begun)
            await send(message)

        await self.app(scope, receive, watch)
