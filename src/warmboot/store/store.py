"""The store: the database and its repositories."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from warmboot.model.vm import VmKind
from warmboot.store.address import parse_url, prepare_file
from warmboot.store.database import Database
from warmboot.store.migrate import migrate
from warmboot.store.repositories.counts import CountQueries
from warmboot.store.repositories.events import EventRepository
from warmboot.store.repositories.idempotency import IdempotencyRepository
from warmboot.store.repositories.images import RuntimeImageRepository
from warmboot.store.repositories.meta import MetaRepository
from warmboot.store.repositories.named.checkpoints import CheckpointRepository
from warmboot.store.repositories.named.containers import ContainerRepository
from warmboot.store.repositories.named.engines import EngineRepository
from warmboot.store.repositories.named.workers import WorkerRepository
from warmboot.store.repositories.operations import OperationRepository
from warmboot.store.repositories.pages import PageRepository
from warmboot.store.repositories.snapshots import RuntimeSnapshotRepository
from warmboot.store.repositories.unreadable import UnreadableRows
from warmboot.store.repositories.vms import VmRepository


class Store:
    """One repository a noun, over one database. See ``database`` for who waits for whom."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.images = RuntimeImageRepository(database)
        self.snapshots = RuntimeSnapshotRepository(database)
        self.containers = ContainerRepository(database)
        self.engines = EngineRepository(database)
        self.vms = VmRepository(database)
        self.workers = WorkerRepository(database)
        self.checkpoints = CheckpointRepository(database)
        self.operations = OperationRepository(database)
        self.events = EventRepository(database)
        self.idempotency = IdempotencyRepository(database)
        self.meta = MetaRepository(database)
        self.pages = PageRepository(database)
        self.counts = CountQueries(database)
        self.unreadable = UnreadableRows(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Store]:
        """Open the database at ``url``, brought to this version's schema first.

        ``url`` is ``sqlite:////path/to/file.db`` (made if it is not there, readable for its owner
        alone) or ``postgresql://user:password@host/database``. ``InvalidRequest`` for any other;
        ``Unavailable`` if it cannot be opened; ``NotSupported`` if a newer version made it.
        """
        address = parse_url(url)
        if address.get_backend_name() == "sqlite":
            prepare_file(address)
        await migrate(address)
        async with Database.open(address) as database:
            yield cls(database)

    def tenants(self, kind: VmKind) -> ContainerRepository | EngineRepository:
        """The repository of those whom VMs of this kind belong to."""
        return self.engines if kind is VmKind.ENGINE else self.containers

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Make the calls inside the block one transaction: all of them happen, or none.

        Do nothing else in it: writers wait for one another. See ``Database.transaction``.
        """
        return self._database.transaction()
