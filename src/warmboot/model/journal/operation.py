"""The journal entry of a saga: which steps were begun, and what is needed to undo them.

running ──▶ done
   │
   ▼
undoing ──▶ undone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class OperationState(StrEnum):
    RUNNING = "running"
    UNDOING = "undoing"
    DONE = "done"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Operation:
    """``begun`` names the steps begun so far, in order; ``data`` is what they have noted."""

    id: UUID
    kind: str
    subject_id: str
    state: OperationState
    begun: tuple[str, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def vm_ids(self) -> tuple[str, ...]:
        return vms_in(self.data)


def vms_in(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the VMs that the operation of this ``data`` may have made."""
    return tuple(str(value) for name, value in data.items() if name.endswith("vm_id"))
