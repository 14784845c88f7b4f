"""A real Prometheus on a loopback port, with a storage of its own that goes with it.

async with prometheus(config, folder) as server:
    await server.query("up")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.support.managers import eventually
from tests.support.ports import free_port

PROMETHEUS, PROMTOOL = "/usr/bin/prometheus", "/usr/bin/promtool"
_START_S, _STOP_S = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    http: httpx.AsyncClient

    async def get(self, path: str, **params: str) -> Any:
        """What ``/api/v1`` answers; an error is the test's failure, in Prometheus' own words."""
        response = await self.http.get(f"/api/v1/{path}", params=params)
        answer = response.json()
        assert answer["status"] == "success", f"{params}: {answer.get('error')}"
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now; a scalar is one without labels."""
        data = await self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[dict[str, Any]] = data["result"]
        return found

    async def until(self, expression: str) -> None:
        """Until the expression, a condition, holds."""

        async def look() -> bool:
            return bool(await self.query(expression))

        await eventually(look, expression)


async def promtool(*arguments: str, cwd: Path) -> str:
    """Run it; what it says, and its success is asserted."""
    process = await asyncio.create_subprocess_exec(
        PROMTOOL,
        *arguments,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    return output


@contextlib.asynccontextmanager
async def prometheus(config: Path, folder: Path) -> AsyncIterator[Prometheus]:
    """Run one with ``config``, its data below ``folder``, until the block is left."""
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=1h",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
        ) as http:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    return (await http.get("/-/ready")).status_code == 200
                return False

            await eventually(ready, "Prometheus is ready", _START_S)
            yield Prometheus(http)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
