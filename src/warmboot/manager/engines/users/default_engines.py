"""Users' default engines: each is made when its user first asks for it, and started when it sleeps.

    front ──wake-engine──▶ none? made     stopped, failed? started     being removed? made anew
                             └───────────── runs ──▶ its id ──▶ the front passes the request

The front keeps who asked waiting, at a socket that is the user's whether there is an engine or not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.engines.engines import Engines
from warmboot.manager.protocols import EngineUntil
from warmboot.manager.tenants.park_tenant import AROUND_PARKED
from warmboot.model.conventions.caller import CALLER
from warmboot.model.conventions.engine_front import WAKE_TIMEOUT_S
from warmboot.model.conventions.names import check_name
from warmboot.model.errors import (
    Conflict,
    HostError,
    InvalidName,
    InvalidRequest,
    NotFound,
    WarmbootError,
)
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState

log = structlog.get_logger(__name__)

WAKE = "wake-engine"

END_TIMEOUT_S = 10.0
"""The front sees a VM's end first; so long it may take until it is stored."""


class DefaultEngines:
    """Those of ``users``, names by uid. ``serve`` their sockets, ``answer`` what the front asks."""

    def __init__(self, host: HostAgent, engines: Engines, users: Mapping[int, str]) -> None:
        self._host = host
        self._engines = engines
        self._users = users
        self._serving = asyncio.Event()
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def serve(self, served: Collection[int]) -> None:
        """Have these users' sockets, and no others of those that the front has, ``served``."""
        for uid in self._users.keys() | set(served):
            front = self._host.front
            try:
                await (front.serve_user if uid in self._users else front.forget_user)(uid)
            except (HostError, InvalidRequest) as error:
                log.error(
                    f"the default socket of user {uid} is not as it should be", error=error.details
                )
        self._serving.set()

    def stop(self) -> None:
        """Who asks from now on is answered by the next manager: what is parked now stays so."""
        self._serving.clear()

    async def answer(self, _: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The id of the engine of the user ``uid``, or of the parked ``engine``, which runs now; or
        why there is none, in words."""
        await self._serving.wait()  # before it is not known which VMs are still there
        try:
            if "engine" in given:
                await self._engines.parks.wake_parked(UUID(given["engine"]))
                return {"engine": given["engine"]}
            return {"engine": str(await self._woken(int(given["uid"]), gone=bool(given["gone"])))}
        except WarmbootError as error:
            return {"refused": ": ".join(part for part in (error.brief, error.details) if part)}

    async def _woken(self, uid: int, *, gone: bool) -> UUID:
        if uid not in self._users:
            raise NotFound(f"the user {uid} has no default engine any more")
        name = self._name(uid)
        CALLER.set(f"user {uid}")  # of the task that answers this
        async with self._locks[uid]:
            engine_id = await self._begun(uid, name, gone=gone)
        # Not for what came up with it: the front lets wait who wants more than a greeting.
        engine = await self._engines.wait_booted(engine_id, WAKE_TIMEOUT_S)
        if engine.state is not EngineState.RUNNING:
            raise HostError(f"the engine {name} does not run", details=_why(engine))
        return engine.id

    def _name(self, uid: int) -> str:
        name = f"user-{self._users[uid]}"
        with contextlib.suppress(InvalidName, InvalidRequest):  # it is too long, or has a blank
            self._host.front.socket_of(check_name(name))
            return name
        return f"user-{uid}"

    async def _begun(self, uid: int, name: str, *, gone: bool) -> UUID:
        try:
            engine = await self._engines.get(name)
        except NotFound:
            return await self._engines.create(EngineSpec(name, uid))
        if engine.spec.owner_uid != uid:
            raise Conflict(
                f"the engine {name} belongs to the user {engine.spec.owner_uid}",
                resolution=f"remove it: `warmboot engine rm -f {name}`",
            )
        if gone and engine.state is EngineState.RUNNING:
            engine = await self._engines.wait(str(engine.id), EngineUntil.STOPPED, END_TIMEOUT_S)
        if engine.state is EngineState.DELETING:
            await self._engines.remove(engine.id)  # to its end
            return await self._engines.create(EngineSpec(name, uid))
        if engine.state in AROUND_PARKED:
            await self._engines.parks.wake_parked(engine.id)
        if engine.state in (EngineState.STOPPED, EngineState.FAILED):
            await self._engines.start(str(engine.id))
        return engine.id


def _why(engine: Engine) -> str:
    if engine.state is EngineState.FAILED:
        error = engine.error or {}
        return ": ".join(str(error[key]) for key in ("brief", "details") if error.get(key))
    if engine.state is EngineState.CREATING:
        return f"it is still being created after {WAKE_TIMEOUT_S:g} s"
    return f"it is {engine.state}"
