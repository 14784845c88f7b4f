"""Repository of workers: containers of the host's own engine."""

from __future__ import annotations

from dataclasses import fields

from warmboot.model.worker import WORKER_TRANSITIONS, Worker, WorkerState
from warmboot.store.lenient import Rows
from warmboot.store.repositories.named.records import Kind, NamedRecords
from warmboot.store.tables import workers

ROWS = Rows(workers, lambda values: Worker(**values), omit=("name", "updated_at"))


class WorkerRepository(NamedRecords[Worker, WorkerState]):
    KIND = Kind(
        "worker",
        "see `warmboot worker ls`",
        ROWS,
        WORKER_TRANSITIONS,
        [field.name for field in fields(Worker)],
    )
