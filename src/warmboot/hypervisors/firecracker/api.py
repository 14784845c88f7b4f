"""Firecracker's API over its Unix socket. Only a 2xx answer is a success."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from warmboot.hypervisors.process import VmmProcess
from warmboot.model.errors import HypervisorError, VmGone

POLL_INTERVAL_S = 0.002
LAST_WORDS_S = 1.0


class FirecrackerApi:
    """The client of one VMM. ``close`` lets go of the socket."""

    def __init__(self, vm_id: str, socket: Path, process: VmmProcess, timeout_s: float) -> None:
        self._vm_id = vm_id
        self._socket = socket
        self._process = process
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=1),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def until_listening(self, timeout_s: float) -> None:
        """Return when the socket takes connections; ``VmGone`` if the VMM ends before."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._listens():
                    if not self._process.alive:
                        raise VmGone(f"Firecracker ended while {self._vm_id} came up")
                    # It binds the socket itself and cannot be handed one, nor tells when it has.
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            raise HypervisorError(
                f"Firecracker of {self._vm_id} does not listen", details=f"within {timeout_s:g} s"
            ) from None

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        writer.close()
        return True

    async def get(self, path: str) -> dict[str, Any]:
        return await self._request("GET", path, None, self._timeout_s)

    async def put(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> None:
        await self._request("PUT", path, body, timeout_s or self._timeout_s)

    async def patch(self, path: str, body: dict[str, Any]) -> None:
        await self._request("PATCH", path, body, self._timeout_s)

    async def close(self) -> None:
        await self._session.close()

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> dict[str, Any]:
        what = f"{method} {path}"
        if not self._process.alive:
            raise VmGone(f"Firecracker of {self._vm_id} is gone", details=what)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, f"http://firecracker{path}", json=body) as response,
            ):
                text = await response.text()
        except TimeoutError:
            raise HypervisorError(
                f"Firecracker of {self._vm_id} did not answer {what}",
                details=f"within {timeout_s:g} s",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise await self._lost(what, error) from error
        if not 200 <= response.status < 300:
            raise HypervisorError(
                f"Firecracker refused {what} for {self._vm_id}",
                details=f"{response.status}: {fault_message(text)}",
            )
        return json.loads(text) if text else {}

    async def _lost(self, what: str, error: Exception) -> HypervisorError:
        """The connection broke: most often as the VMM died, which shows an instant later."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._process.wait()
        except TimeoutError:
            return HypervisorError(
                f"the connection to Firecracker of {self._vm_id} broke",
                details=f"{what}: {error!r}",
            )
        return VmGone(f"Firecracker of {self._vm_id} is gone", details=f"it ended during {what}")


def fault_message(text: str) -> str:
    """What Firecracker says of a refusal, in its own words."""
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("fault_message", text)) if isinstance(answer, dict) else text
