"""Failures of the reconciliation with the machine: recorded, and shown by ``warmboot doctor``.

A row that cannot be reconciled keeps neither the other rows nor the manager from their work.
"""

from __future__ import annotations

from collections.abc import Awaitable
from uuid import UUID

import structlog

from warmboot.manager.protocols import Check
from warmboot.model.errors import WarmbootError
from warmboot.model.journal.event import Event
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_REMEDY = "the next start of the manager tries again"


class ReconcileFailures:
    """``on_event`` observes the event log: the failures of what was removed are cleared."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, str], WarmbootError] = {}

    def on_event(self, event: Event) -> None:
        if event.kind.endswith(".deleted"):
            for key in [key for key in self._noted if key[1] == event.subject_id]:
                del self._noted[key]

    async def attempt(
        self, what: str, work: Awaitable[object], subject: UUID | str = ""
    ) -> WarmbootError | None:
        """Run ``work``; return its error, which is recorded as a failure of ``what``."""
        try:
            await work
        except WarmbootError as error:
            return self.note(what, error, subject)
        except OSError as error:
            return self.note(what, os_error(error), subject)
        except Exception as error:  # also a bug: everything else must be reconciled, and served
            log.exception(f"{what} met a bug")
            bug = WarmbootError(
                "something unexpected went wrong in warmboot",
                details=repr(error),
                resolution="report it with the lines of the log",
            )
            return self.note(what, bug, subject)
        self._noted.pop((what, str(subject)), None)
        return None

    def note(self, what: str, error: WarmbootError, subject: UUID | str = "") -> WarmbootError:
        log.error(f"{what} could not be reconciled: {error.brief}", details=error.details)
        self._noted[what, str(subject)] = error
        return error

    def clear(self, what: str, subject: UUID | str = "") -> None:
        self._noted.pop((what, str(subject)), None)

    def checks(self) -> list[Check]:
        return [
            Check(
                name="unsettled",
                ok=False,
                summary=f"{what}: {error.brief}",
                why=error.details,
                remedy=error.resolution or _REMEDY,
                required=False,
            )
            for (what, _), error in self._noted.items()
        ]
