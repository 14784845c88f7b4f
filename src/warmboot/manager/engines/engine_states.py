"""Which requests are legal in which state of an engine, and what its socket then says. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from warmboot.manager.protocols import EngineUntil
from warmboot.manager.tenants import boot_tenant
from warmboot.manager.tenants.pause_tenant import check_not_parked
from warmboot.model.errors import Conflict
from warmboot.model.tenants.engine import Engine, EngineState

UNBOOTED: dict[str, Any] = {**boot_tenant.UNBOOTED, "handed_over": False}
"""What is known of an engine's boot before it: nothing."""


def has_reached(engine: Engine, until: EngineUntil) -> bool:
    """Whether the engine has reached the awaited state, or never will.

    One that goes on with containers runs when those do, and their ports are published.
    """
    if engine.state in (EngineState.FAILED, EngineState.DELETING):
        return True
    if until is EngineUntil.RUNNING:
        if engine.state is EngineState.RUNNING:
            return engine.handed_over or not engine.goes_on
        return has_booted(engine)
    return engine.state is EngineState.STOPPED


def has_booted(engine: Engine) -> bool:
    """Whether its Docker answers, or never will."""
    return engine.state not in (EngineState.CREATING, EngineState.WAKING)


def can_be_stopped(engine: Engine) -> bool:
    """``Conflict`` while it is being created."""
    if engine.state is EngineState.CREATING:
        raise Conflict(
            f"the engine {engine.name} is still being created",
            resolution="wait until it runs, or use `warmboot engine rm -f`",
        )
    check_not_parked(engine)
    return engine.state in (EngineState.RUNNING, EngineState.PAUSED)


def check_handed_over(engine: Engine) -> None:
    """``Conflict`` while something of ours is in its Docker."""
    if not engine.handed_over:
        raise Conflict(
            f"the engine {engine.name} has just been booted, and is not ready",
            resolution="try again in a moment",
        )


def to_be_removed(engine: Engine, now: datetime) -> bool:
    """Whether it has ended for good, or its time is over."""
    ended = engine.state in (EngineState.STOPPED, EngineState.FAILED)
    expired = engine.expires_at is not None and engine.expires_at <= now
    return (engine.spec.auto_remove and ended) or expired


def silence(engine: Engine) -> str:
    """What its socket says while nobody answers there; nothing while it is to come."""
    name, start = engine.name, f"start it again: `warmboot engine start {engine.name}`"
    if engine.state is EngineState.PAUSED:
        return f"the engine {name} is paused; unpause it: `warmboot engine unpause {name}`"
    if engine.state is EngineState.PARKED:
        return f"the engine {name} is parked; wake it: `warmboot engine wake {name}`"
    if engine.state is EngineState.WAKING:
        return f"the engine {name} is waking; try again in a moment"
    if engine.state is EngineState.STOPPED:
        return f"the engine {name} is stopped; {start}"
    if engine.state is EngineState.FAILED:
        error = engine.error or {}
        why = ": ".join(str(error[key]) for key in ("brief", "details") if error.get(key))
        return f"the engine {name} has failed: {why}; {start}"
    if engine.state is EngineState.DELETING:
        return f"the engine {name} is being removed"
    return ""
