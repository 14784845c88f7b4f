"""Repository of users' containers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from warmboot.model.container import CONTAINER_TRANSITIONS, Container, ContainerState
from warmboot.store.lenient import Rows
from warmboot.store.repositories.tenants.tenant import TenantRepository, Tenants, shaped
from warmboot.store.tables import containers


def _container(values: dict[str, Any]) -> Container:
    return Container(**shaped(values))


ROWS = Rows(containers, _container, omit=("name", "updated_at"))


class ContainerRepository(TenantRepository[Container, ContainerState]):
    TENANTS = Tenants(
        "container",
        "warmboot ps --all",
        ROWS,
        CONTAINER_TRANSITIONS,
        [field.name for field in fields(Container)],
    )
