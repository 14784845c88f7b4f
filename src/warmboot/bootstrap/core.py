"""The wiring of the parts that all others need."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.core.saga import SagaRunner
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.core.uploads import Uploads
from warmboot.settings import Settings
from warmboot.store import Store


@dataclass(frozen=True, slots=True)
class Core:
    """One of each a manager; ``attention`` is set when snapshots are to be looked at at once."""

    settings: Settings
    store: Store
    host: HostAgent
    runner: SagaRunner
    events: EventLog
    tasks: Tasks
    reconcile_failures: ReconcileFailures
    uploads: Uploads
    admission: BootAdmission
    attention: asyncio.Event = field(default_factory=asyncio.Event)
