"""HTTP to the manager: tokens, retries, idempotency keys, errors.

Reads, and POSTs (each with a key of its own), are sent again when the connection fails: a POST
that did arrive is then answered with what it did, not done twice.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from warmboot.client.endpoint import Endpoint
from warmboot.client.problems import (
    ManagerUnreachable,
    error_from,
    no_address,
    not_ours,
    unreachable,
)
from warmboot.model.conventions.names import check_name
from warmboot.model.errors import InvalidName, NotFound

ATTEMPTS = 3
FIRST_PAUSE_S = 0.1
MAX_TIMEOUT_S = 3600.0
_SHOWN = 64
_AGAIN = frozenset({502, 504})
_STILL_RUNNING = "request-still-running"


class Transport:
    """One connection pool to one manager."""

    def __init__(self, http: httpx.AsyncClient, endpoint: Endpoint) -> None:
        self.http = http
        self.endpoint = endpoint

    async def get(self, path: str, params: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """The answer to a GET. All methods raise what the manager tells."""
        return said_by(await self._send("GET", path, params=params, **more))

    async def post(self, path: str, body: Any = None, **more: Any) -> Any:
        """The answer to a POST."""
        headers = {"Idempotency-Key": str(uuid4())}
        if body is not None:
            more["json"] = body
        return said_by(await self._send("POST", path, headers=headers, **more))

    async def put(self, path: str, body: Any) -> Any:
        """The answer to a PUT."""
        return said_by(await self._send("PUT", path, json=body))

    async def patch(self, path: str, body: Any) -> Any:
        """The answer to a PATCH."""
        return said_by(await self._send("PATCH", path, json=body))

    async def post_slow(self, path: str, params: Mapping[str, Any], body: Any = None) -> Any:
        """A POST whose work may take its ``timeout_s`` (the server's own, if none) and more."""
        limit_s = params.get("timeout_s", MAX_TIMEOUT_S) + 300
        return await self.post(path, body, params=params, timeout=limit_s)

    async def upload(
        self,
        path: str,
        chunks: AsyncIterator[bytes],
        size_bytes: int | None,
        *,
        method: str = "POST",
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a body that is too large to be sent twice: the request is not retried."""
        headers = {"Content-Type": "application/octet-stream"}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        async with self._unreachable():
            answer = await self.http.request(
                method, path, params=params, content=chunks, headers=headers, timeout=None
            )
        return said_by(_checked(answer))

    async def delete(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a DELETE."""
        async with self._unreachable():
            return said_by(_checked(await self.http.delete(path, params=params)))

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Read an answer of any length; there is no limit for the time between its bytes."""
        timeout = httpx.Timeout(10.0, read=None)
        async with (
            self._unreachable(),
            self.http.stream(
                "GET", path, params=params, headers=headers, timeout=timeout
            ) as response,
        ):
            if not response.is_success:
                raise error_from(response.status_code, await response.aread())
            yield response

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        pause_s = FIRST_PAUSE_S
        async with self._unreachable():
            for attempt in range(1, ATTEMPTS + 1):
                last = attempt == ATTEMPTS
                try:
                    response = await self.http.request(method, path, **request)
                except httpx.TransportError as error:
                    if last or isinstance(error, httpx.ReadTimeout | httpx.UnsupportedProtocol):
                        raise
                else:
                    if last or not _worth_another(response, attempt):
                        return _checked(response)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s *= 3
        raise AssertionError("unreachable: the last attempt returns or raises")

    @asynccontextmanager
    async def _unreachable(self) -> AsyncIterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise unreachable(self.endpoint, error) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise no_address(self.endpoint, str(error)) from error
        except httpx.TransportError as error:
            raise ManagerUnreachable(
                "the connection to the manager was lost",
                details=str(error) or type(error).__name__,
                resolution="try again; if the manager is gone, start it with: warmboot serve",
            ) from error


def _worth_another(response: httpx.Response, attempt: int) -> bool:
    """A proxy's failure; or, of a request sent again, the first one being still at work."""
    if response.status_code in _AGAIN:
        return True
    return attempt > 1 and response.status_code == 409 and _STILL_RUNNING in response.text


class Answer(dict[str, Any]):
    """What the manager said. What is not in it but asked for is ``Unavailable``."""

    def __missing__(self, key: str) -> Any:
        raise not_ours(200, json.dumps(self).encode())


def said_by(response: httpx.Response) -> Answer:
    """``Unavailable`` if it is no answer of a manager's."""
    try:
        said = response.json()
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise not_ours(response.status_code, response.content)
    return Answer(said)


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise error_from(response.status_code, response.content)
    return response


def segment(reference: str, what: str) -> str:
    """The name or id of a ``what``. ``NotFound`` for what is none: it would lead elsewhere."""
    reference.encode()  # UnicodeEncodeError
    try:
        return quote(check_name(reference), safe="")
    except InvalidName as error:
        shown = f"{reference[:_SHOWN]}…" if len(reference) > _SHOWN else reference
        raise NotFound(
            f"there is no {what} {shown!r}",
            details="names and ids have 1 to 63 letters, digits, '_', '.' and '-', with a letter "
            "or digit first, and no '..'",
        ) from error
