"""Repository of users' containers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any
from uuid import UUID

from warmboot.model.container import (
    CONTAINER_TRANSITIONS,
    Container,
    ContainerState,
    PortMapping,
)
from warmboot.model.errors import NameTaken
from warmboot.store.lenient import Rows
from warmboot.store.repositories.guard import check_fields, with_shape
from warmboot.store.repositories.named.records import Kind, NamedRecords, shaped
from warmboot.store.tables import containers

ROWS = Rows(containers, lambda values: Container(**shaped(values)), omit=("name", "updated_at"))


class ContainerRepository(NamedRecords[Container, ContainerState]):
    KIND = Kind(
        "container",
        "see `warmboot ps --all`",
        ROWS,
        CONTAINER_TRANSITIONS,
        [field.name for field in fields(Container)],
    )

    async def begin(
        self, container_id: UUID, wanted_ports: tuple[PortMapping, ...], **changes: Any
    ) -> Container:
        """It is to be brought up: ``CREATING``, with the ports that were chosen for it now.

        ``IllegalTransition``, ``NotFound``.
        """
        check_fields(changes, self._of.changeable)
        async with self._database.transaction(), self._database.write() as connection:
            # What else is in it is as it is now: it may just have been given another name.
            spec = replace((await self.get(container_id)).spec, ports=wanted_ports)
            values = with_shape({**changes, "spec": spec})
            row = await self._of.changes.move(
                connection, container_id, ContainerState.CREATING, values
            )
            if row is None:
                raise self._of.unknown(container_id)
            return self._rows.one(row)

    async def rename(self, container_id: UUID, name: str) -> Container:
        """It keeps its host name, which it has by its first name. ``NameTaken``; ``NotFound``."""
        taken = NameTaken(
            f"there is a container named {name!r} already",
            resolution="choose another name, or remove that one",
        )
        found = await self.get(container_id)
        spec = replace(found.spec, name=name, hostname=found.host_name)
        async with self._database.write(taken) as connection:
            changes = with_shape({"name": name, "spec": spec})
            row = await self._of.changes.update(connection, container_id, changes)
            if row is None:
                raise self._of.unknown(container_id)
            return self._rows.one(row)
