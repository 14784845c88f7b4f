"""The VMM's side of a simulated VM: one JSON line in, one out, on ``control.sock``.

``{"do": "status"}``, ``{"do": "pause"}``, ``{"do": "resume"}``, ``{"do": "save", "memory": …,
"state": …}``; answered by ``{"status": "running" | "paused" | "stalled"}`` or ``{"error": …}``. The
answer to ``save`` also tells which pages of memory a restored machine has changed: ``own``.
``{"do": "wait-stalled"}`` is answered once the machine has stalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from warmboot.hypervisors.simulated.vmm import snapshot
from warmboot.hypervisors.simulated.vmm.machine import Machine


class Control:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if line:
                try:
                    order = json.loads(line)
                    if order["do"] == "wait-stalled":
                        await self._stalled_or_hung_up(reader)
                        order = {"do": "status"}
                    answer = self._perform(order)
                except (OSError, ValueError, KeyError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _stalled_or_hung_up(self, reader: asyncio.StreamReader) -> None:
        either = [
            asyncio.ensure_future(wait) for wait in (self._machine.stalled.wait(), reader.read())
        ]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in either:
                waiting.cancel()

    def _perform(self, order: dict[str, Any]) -> dict[str, Any]:
        clock = self._machine.clock
        match order["do"]:
            case "pause":
                clock.pause()
            case "resume":
                self._machine.resume()
            case "save":
                if not clock.paused:
                    return {"error": "only a paused VM can be saved"}
                if self._machine.config.fail_save:
                    return {"error": "the fault fail_save is set"}
                memory, state = Path(order["memory"]), Path(order["state"])
                snapshot.write(self._machine.saved(), memory, state)
                own = self._machine.own_pages(memory)
                return {"status": self._machine.status, "own": own}
            case "status":
                pass
            case other:
                return {"error": f"unknown order {other!r}"}
        return {"status": self._machine.status}
