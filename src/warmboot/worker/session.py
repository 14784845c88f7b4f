"""An HTTP session for a process that may be paused in the middle of a request.

    request ─▶ sent ─▶ answered                          one idempotency key for all attempts
                │  ▲
                │  └── back-off with jitter, fresh connection
                ▼
        connection reset, no answer in time, 408, 425, 429, 5xx,
        409 with Retry-After

After a restore every connection may be stale: the server has closed it long ago, and the next
request on it would be reset, or wait for an answer that was sent while nobody listened. So when the
clock shows that the process was away, the connections are dropped and what is in flight is sent
again. That is safe because every changing request carries an ``Idempotency-Key``, the same in all
attempts of one call: a server that has done it already answers as it did then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from warmboot.worker.clock import AwayClock

IDEMPOTENCY_HEADER = "Idempotency-Key"
TICK_S = 0.5
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Hook = Callable[[float], Awaitable[None] | None]


class NotAWorker(RuntimeError):
    """``WARMBOOT_URL`` or ``WARMBOOT_WORKER_ID`` is not set: nobody to report to."""


class GaveUp(Exception):
    """No attempt succeeded: ``attempts`` were made, the last one failed with ``last``."""

    def __init__(self, what: str, attempts: int, last: Exception | None) -> None:
        super().__init__(f"{what}: no answer after {attempts} attempts ({last!r})")
        self.attempts = attempts
        self.last = last


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits ``first_s``, then twice that, …, at most ``longest_s``; each times 0.5 to 1.0.

    Gives up after ``attempts``. The wait that a server asks for (``Retry-After``) is honoured up
    to ``longest_s``.
    """

    attempts: int = 12
    first_s: float = 0.2
    longest_s: float = 20.0

    def wait_s(self, attempt: int, asked_s: float | None = None) -> float:
        if asked_s is not None:
            return min(max(asked_s, 0.0), self.longest_s)
        longest: float = min(self.longest_s, self.first_s * 2 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1.0)


class Session:
    """An async context manager around an httpx client. URLs without a host go to the manager.

    ``url``, ``worker_id`` and ``token`` come from ``WARMBOOT_URL``, ``WARMBOOT_WORKER_ID`` and
    ``WARMBOOT_TOKEN``, which the manager sets. The token is sent to the manager alone.
    """

    def __init__(
        self,
        url: str | None = None,
        worker_id: str | None = None,
        token: str | None = None,
        *,
        retry: RetryPolicy = RetryPolicy(),
        timeout_s: float = 30.0,
        clock: AwayClock | None = None,
    ) -> None:
        self.url = url if url is not None else os.environ.get("WARMBOOT_URL", "")
        self.worker_id = worker_id or os.environ.get("WARMBOOT_WORKER_ID", "")
        self._token = token or os.environ.get("WARMBOOT_TOKEN", "")
        self._retry = retry
        self._timeout_s = timeout_s
        self._clock = clock or AwayClock()
        self._hooks: list[Hook] = []
        self._client: httpx.AsyncClient | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._restored = asyncio.Event()
        self.restores = 0

    async def __aenter__(self) -> Self:
        self._client = self._new_client()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def on_restored(self, hook: Hook) -> None:
        """Call ``hook`` with the seconds away after every restore, connections already fresh.

        It may send requests itself. A pause of a second or less is not noticed.
        """
        self._hooks.append(hook)

    # -- requests -----------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send until there is an answer; ``GaveUp`` when there is none in all attempts.

        An answer that will not change (4xx) is returned, as httpx does. ``options`` are httpx's;
        a body must be one that can be sent again (bytes, text, ``json``, ``data``).
        """
        sent = dict(headers or {})
        if method.upper() not in _SAFE_METHODS:
            sent.setdefault(IDEMPOTENCY_HEADER, idempotency_key or str(uuid.uuid4()))
        last: Exception | None = None
        response: httpx.Response | None = None
        for attempt in range(1, self._retry.attempts + 1):
            if attempt > 1:
                await self._pause_between(attempt - 1, response)
            response = None
            await self._notice()
            try:
                response = await self._attempt(method, url, sent, options)
            except httpx.TransportError as error:
                last = error
                continue
            if response is not None and not _try_again(response):
                return response
        if response is not None:
            return response
        raise GaveUp(f"{method} {url}", self._retry.attempts, last)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("DELETE", url, **options)

    async def report(self, kind: str, data: Mapping[str, Any] | None = None) -> httpx.Response:
        """Tell the manager how it goes: an event of this worker. Also counts as a sign of life."""
        body = {"kind": kind, "data": dict(data or {})}
        return (await self.post(self._own("events"), json=body)).raise_for_status()

    async def ask_pause(self) -> httpx.Response:
        """Ask to be paused. The answer may arrive after the restore, or be asked for again."""
        return (await self.post(self._own("pause"), json={})).raise_for_status()

    # -- how ----------------------------------------------------------------------------------

    def _own(self, noun: str) -> str:
        if not self.url or not self.worker_id:
            raise NotAWorker("WARMBOOT_URL and WARMBOOT_WORKER_ID must be set")
        return f"/v1/workers/{self.worker_id}/{noun}"

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=self._timeout_s, trust_env=False)

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> httpx.Response | None:
        """One attempt; ``None`` when a restore came in between, so that it is sent again."""
        assert self._client is not None, "use the session as a context manager"
        full = url
        if url.startswith("/"):
            full = self.url.rstrip("/") + url
            if self._token:
                headers = {"Authorization": f"Bearer {self._token}", **headers}
        self._restored.clear()
        sending = asyncio.create_task(
            self._client.request(method, full, headers=headers, **options)
        )
        restored = asyncio.create_task(self._restored.wait())
        try:
            await asyncio.wait({sending, restored}, return_when=asyncio.FIRST_COMPLETED)
            if restored.done() and not _succeeded(sending):
                return None
            return sending.result()
        finally:
            for task in (sending, restored):
                task.cancel()
            await asyncio.gather(sending, restored, return_exceptions=True)

    async def _pause_between(self, attempt: int, response: httpx.Response | None) -> None:
        asked: float | None = None
        if response is not None:
            with contextlib.suppress(ValueError):
                asked = float(response.headers.get("Retry-After", ""))
        await asyncio.sleep(self._retry.wait_s(attempt, asked))

    async def _tick(self) -> None:
        """The clock must be asked all the time, also while a request waits for its answer.

        A hook that raises ends this; the next request raises the same.
        """
        while True:
            await asyncio.sleep(TICK_S)
            await self._notice()

    async def _notice(self) -> None:
        if self._ticking is not None and self._ticking.done():
            self._ticking.result()
        away_s = self._clock.away_s()
        if not away_s:
            return
        self.restores += 1
        self._restored.set()
        await self._drop_connections()
        for hook in self._hooks:
            outcome = hook(away_s)
            if outcome is not None:
                await outcome

    async def _drop_connections(self) -> None:
        """Close the pool and begin a new one. What is in flight on the old one fails at once."""
        old, self._client = self._client, self._new_client()
        if old is not None:
            await old.aclose()


def _succeeded(task: asyncio.Task[httpx.Response]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _try_again(response: httpx.Response) -> bool:
    """Whether another attempt may get another answer.

    A conflict does so only when it says by ``Retry-After`` that it passes: the first attempt with
    this key is still being worked on.
    """
    if response.status_code == httpx.codes.CONFLICT:
        return "Retry-After" in response.headers
    return response.status_code in _TRY_AGAIN
