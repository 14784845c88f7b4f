"""What could not be brought into agreement with the machine: noted, shown by ``doctor``, let be.

One row that cannot be settled keeps neither the others from it nor the manager from serving.
"""

from __future__ import annotations

from collections.abc import Awaitable
from uuid import UUID

import structlog

from warmboot.manager.ports import Check
from warmboot.model.errors import WarmbootError
from warmboot.model.journal.event import Event
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_REMEDY = "the next start of the manager tries again"


class Unsettled:
    """``on_event`` is an observer of the event log: what was removed is settled, too."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, str], WarmbootError] = {}

    def on_event(self, event: Event) -> None:
        if event.kind.endswith(".deleted"):
            for key in [key for key in self._noted if key[1] == event.subject_id]:
                del self._noted[key]

    async def attempt(
        self, what: str, work: Awaitable[object], subject: UUID | str = ""
    ) -> WarmbootError | None:
        """Do it; what it raised, which is noted as what keeps ``what`` from being settled."""
        try:
            await work
        except WarmbootError as error:
            return self.note(what, error, subject)
        except OSError as error:
            return self.note(what, os_error(error), subject)
        except Exception as error:  # a mistake of ours, too: all else must be settled, and serve
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
        log.error(f"{what} is not settled: {error.brief}", details=error.details)
        self._noted[what, str(subject)] = error
        return error

    def settled(self, what: str, subject: UUID | str = "") -> None:
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
