"""A database on a server is one manager's at a time."""

from __future__ import annotations

import pytest
from tests.support.postgres import PostgresCluster

from warmboot.model.errors import Conflict, Unavailable
from warmboot.store import Store
from warmboot.store.database_lock import lock_database


@pytest.mark.postgres
async def test_a_second_manager_is_told_who_uses_the_database(
    postgres_cluster: PostgresCluster,
) -> None:
    with postgres_cluster.fresh_database() as url, postgres_cluster.fresh_database() as other:
        async with lock_database(url, "pid 4711 on here"):
            with pytest.raises(Conflict, match="another manager uses the database") as told:
                async with lock_database(url, "pid 4712"):
                    pass
            for part in ("warmboot pid 4711 on here", "since 20"):
                assert part in told.value.details
            async with lock_database(other, "pid 4712"), Store.open(url):
                pass  # another database is another's, and the lock is in nobody's way
        async with lock_database(url, "pid 4712"):
            pass


@pytest.mark.postgres
async def test_a_server_that_is_not_there_is_told(postgres_cluster: PostgresCluster) -> None:
    with pytest.raises(Unavailable):
        async with lock_database("postgresql://nobody@127.0.0.1:1/nothing", "pid 1"):
            pass
