"""Repository of engines."""

from __future__ import annotations

from dataclasses import fields

from warmboot.model.tenants.engine import ENGINE_TRANSITIONS, Engine, EngineState
from warmboot.store.lenient import Rows
from warmboot.store.repositories.named.records import Kind, NamedRecords, shaped
from warmboot.store.tables import engines

ROWS = Rows(engines, lambda values: Engine(**shaped(values)), omit=("name", "updated_at"))


class EngineRepository(NamedRecords[Engine, EngineState]):
    KIND = Kind(
        "engine",
        "see `warmboot engine ls`",
        ROWS,
        ENGINE_TRANSITIONS,
        [field.name for field in fields(Engine)],
    )
