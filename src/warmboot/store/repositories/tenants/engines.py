"""Repository of engines."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from warmboot.model.tenants.engine import ENGINE_TRANSITIONS, Engine, EngineState
from warmboot.store.lenient import Rows
from warmboot.store.repositories.tenants.tenant import TenantRepository, Tenants, shaped
from warmboot.store.tables import engines


def _engine(values: dict[str, Any]) -> Engine:
    return Engine(**shaped(values))


ROWS = Rows(engines, _engine, omit=("name", "updated_at"))


class EngineRepository(TenantRepository[Engine, EngineState]):
    TENANTS = Tenants(
        "engine",
        "warmboot engine ls",
        ROWS,
        ENGINE_TRANSITIONS,
        [field.name for field in fields(Engine)],
    )
