"""Leads an engine's socket to its VM while that is booted, so that its clients are answered as soon
as its Docker answers: what is journaled and told of the boot takes its time beside that."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.vms.boot_vm import Onlooker
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.vm import VmRecord
from warmboot.system.concurrency import end


class EarlySocket(Onlooker):
    """Of an engine that is ``creating``. ``settled`` before others show it; ``end`` at the end."""

    def __init__(self, sockets: EngineSockets, engine: Engine) -> None:
        self._sockets = sockets
        self._engine = engine
        # Its socket is there at once, and keeps those waiting who connect early; the front
        # comes up beside the boot, if it has to.
        self._showing = asyncio.create_task(sockets.show_if_possible(engine))

    def restored(self, record: VmRecord) -> None:
        self._show(record, answers=False)

    def answers(self, record: VmRecord) -> None:
        self._show(record, answers=True)

    def lost(self) -> None:
        self._then(self._engine, answers=True)

    async def settled(self) -> None:
        """Return when it is shown as it was told last."""
        await asyncio.wait({self._showing})

    async def end(self) -> None:
        await end(self._showing)

    def _show(self, record: VmRecord, *, answers: bool) -> None:
        runs = replace(self._engine, state=EngineState.RUNNING, vm_id=record.id)
        self._then(runs, answers=answers)

    def _then(self, engine: Engine, *, answers: bool) -> None:
        before = self._showing

        async def show() -> None:
            try:
                await asyncio.wait({before})
            except asyncio.CancelledError:
                await end(before)
                raise
            await self._sockets.show_if_possible(engine, answers=answers)

        self._showing = asyncio.create_task(show())
