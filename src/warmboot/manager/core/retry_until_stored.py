"""Stores something that has already happened, and retries while the disk or database fails.

Were such a write given up, the database would be wrong about a thing until the manager's next
start: nobody else looks at it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, overload
from uuid import UUID

import structlog

from warmboot.manager.core.event_log import EventLog
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import DiskFull, IllegalTransition, Unavailable
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.back_off import BackOff

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

log = structlog.get_logger(__name__)


async def retry_until_stored(what: str, write: Callable[[], Awaitable[T]]) -> T:
    """The result of ``write``, called until the database takes it, or we are cancelled.

    What it refuses for a reason of its own (``NotFound``, ``IllegalTransition``) is raised.
    """
    back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        try:
            return await write()
        except (DiskFull, Unavailable) as error:
            log.error(
                f"{what} could not be stored, tried again in {back_off.next_s:g} s: {error.brief}",
                details=error.details,
            )
        await back_off.pause()  # a disk does not tell when it has room again


@overload
async def store_state(
    store: Store,
    events: EventLog,
    tenant_id: UUID,
    state: ContainerState,
    told: Callable[[Container], Mapping[str, object]],
    **changes: Any,
) -> Container: ...


@overload
async def store_state(
    store: Store,
    events: EventLog,
    tenant_id: UUID,
    state: EngineState,
    told: Callable[[Engine], Mapping[str, object]],
    **changes: Any,
) -> Engine: ...


async def store_state(
    store: Store,
    events: EventLog,
    tenant_id: UUID,
    state: ContainerState | EngineState,
    told: Callable[[Any], Mapping[str, object]],
    **changes: Any,
) -> Any:
    """The container or engine, once the database has taken its new state, and the event with
    ``told``. As ``set_state`` otherwise.
    """
    kind = VmKind.ENGINE if isinstance(state, EngineState) else VmKind.CONTAINER
    tenants: Any = store.tenants(kind)
    tried = False

    async def write() -> Any:
        nonlocal tried
        again, tried = tried, True
        try:
            async with events.transaction() as emit:
                tenant = await tenants.set_state(tenant_id, state, **changes)
                await emit(f"{kind}.{state}", tenant_id, **told(tenant))
            return tenant
        except IllegalTransition:
            tenant = await tenants.get(tenant_id)
            if again and tenant.state is state:
                events.wake(tenant_id)
                return tenant  # the earlier attempt was taken, and only its answer lost
            raise

    return await retry_until_stored(f"that {kind} {tenant_id} is {state}", write)
