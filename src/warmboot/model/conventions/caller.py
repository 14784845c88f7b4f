"""Who asks for what is being done: the same name that the API's middleware knows the caller by."""

from __future__ import annotations

from contextvars import ContextVar

NOBODY = ""
"""The manager itself: what it takes up again, restarts or wakes."""

CALLER: ContextVar[str] = ContextVar("caller", default=NOBODY)
"""Of the task that has it, and of those that it begins. For who goes first, never for rights."""
