"""Opening, migrating, and what cannot be opened."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.store.things import a_container, stored_container, stored_image, stored_snapshot
from tests.support.postgres import PostgresCluster

from warmboot.model.errors import (
    DiskFull,
    InvalidRequest,
    NotFound,
    NotSupported,
    RowUnreadable,
    Unavailable,
)
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.store import Store
from warmboot.store.address import parse_url
from warmboot.store.failures import translated
from warmboot.store.migrate import MIGRATIONS, migrate, revisions
from warmboot.store.sqlite import connect_with
from warmboot.store.tables import metadata

T = TypeVar("T")


async def _in(url: str, look: Callable[[Connection], T]) -> T:
    engine = create_async_engine(parse_url(url))
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(look)
    finally:
        await engine.dispose()


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


async def test_a_new_database_has_exactly_the_tables_of_the_code(database_url: str) -> None:
    def differences(connection: Connection) -> object:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    async with Store.open(database_url):
        pass
    assert await _in(database_url, _tables) == set(metadata.tables)
    assert await _in(database_url, differences) == []


async def test_columns_have_the_types_that_the_specification_names(database_url: str) -> None:
    def types(connection: Connection) -> dict[str, str]:
        columns = inspect(connection).get_columns("runtime_snapshots")
        return {
            column["name"]: str(column["type"].compile(connection.dialect)) for column in columns
        }

    async with Store.open(database_url):
        pass
    found = await _in(database_url, types)
    postgres = database_url.startswith("postgresql")
    assert found["id"] == ("UUID" if postgres else "CHAR(32)")
    assert found["created_at"] == ("TIMESTAMP WITH TIME ZONE" if postgres else "DATETIME")
    assert found["metadata"] == ("JSONB" if postgres else "JSON")
    assert found["state"] == "TEXT"


async def test_migrations_go_down_and_up_again(database_url: str) -> None:
    address = parse_url(database_url)
    for revision in revisions():
        await migrate(address, revision)
    for revision in [*reversed(revisions()[:-1]), "base"]:
        await migrate(address, revision)
    assert await _in(database_url, _tables) == set()
    async with Store.open(database_url) as store:
        await stored_container(store)


def test_revisions_are_numbered_one_after_the_other() -> None:
    assert revisions() == [f"{n:04}" for n in range(1, len(revisions()) + 1)]
    for number in revisions():
        (file,) = (MIGRATIONS / "versions").glob(f"m{number}_*.py")
        assert re.search(rf'^revision = "{number}"$', file.read_text(), re.MULTILINE)


async def test_what_was_stored_is_there_after_reopening(database_url: str) -> None:
    async with Store.open(database_url) as store:
        container = await stored_container(store)
    async with Store.open(database_url) as store:
        assert await store.containers.get(container.id) == container


async def test_nobody_is_refused_while_another_one_makes_the_file(tmp_path: Path) -> None:
    for number in range(100):
        connect = connect_with(str(tmp_path / f"{number}.db"), writer=True)
        made = await asyncio.gather(*(connect() for _ in range(8)))
        await asyncio.gather(*(one.close() for one in made))


async def test_two_programs_can_open_a_new_database_at_once(database_url: str) -> None:
    async def opened() -> int:
        async with Store.open(database_url) as store:
            return len(await store.containers.list())

    assert await asyncio.gather(*(opened() for _ in range(3))) == [0, 0, 0]


async def test_two_programs_on_one_database_do_not_lock_each_other_out(database_url: str) -> None:
    async with Store.open(database_url) as one, Store.open(database_url) as other:
        for store in (one, other):
            await store.containers.list()
        writers = [store.containers.add(a_container()) for _ in range(25) for store in (one, other)]
        await asyncio.gather(*writers)
        assert len(await one.containers.list()) == 50


def _be(version: str, connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})


async def test_a_newer_database_is_refused_and_left_alone(database_url: str) -> None:
    async with Store.open(database_url) as store:
        container = await stored_container(store)
    for version, expected in (("9999", NotSupported), (revisions()[-1], None)):
        await _in(database_url, partial(_be, version))
        if expected is not None:
            with pytest.raises(expected, match="newer"):
                async with Store.open(database_url):
                    pass
        else:
            async with Store.open(database_url) as store:
                assert await store.containers.get(container.id) == container


async def test_a_database_of_something_else_is_refused(database_url: str) -> None:
    await _in(
        database_url, lambda connection: connection.execute(text("CREATE TABLE pets (n int)"))
    )
    with pytest.raises(Unavailable, match="pets"):
        async with Store.open(database_url):
            pass
    assert await _in(database_url, _tables) == {"pets"}


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:"],
)
async def test_a_url_of_nothing_we_know_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="sqlite:////"):
        async with Store.open(url):
            pass


async def test_a_password_is_never_shown() -> None:
    for url in ("mysql://me:hunter2@localhost/x", "postgresql://me:hunter2@localhost:1/x"):
        with pytest.raises((InvalidRequest, Unavailable)) as caught:
            async with Store.open(url):
                pass
        assert "hunter2" not in str(caught.value)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="check that the folder exists"):
        async with Store.open(f"sqlite:///{tmp_path}/no/such.db"):
            pass


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear database,\n" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        async with Store.open(f"sqlite:///{file}"):
            pass
    assert file.read_text() == "Dear database,\n" * 100


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="check that PostgreSQL runs"):
        async with Store.open(f"postgresql://nobody@/x?host={tmp_path}"):
            pass


async def test_the_sqlite_files_are_the_owner_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "warmboot.db"
    old = os.umask(0)
    try:
        async with Store.open(f"sqlite:///{file}") as store:
            await stored_container(store)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {
        "warmboot.db": 0o600,
        "warmboot.db-wal": 0o600,
        "warmboot.db-shm": 0o600,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["warmboot.db"]


async def test_a_row_that_cannot_be_read_is_told_apart(database_url: str) -> None:
    async with Store.open(database_url) as store:
        snapshot = await stored_snapshot(store, state=SnapshotState.READY)
        image = await stored_image(store)
        await _in(
            database_url,
            lambda connection: [
                connection.execute(text("UPDATE runtime_snapshots SET state = 'melted'")),
                connection.execute(
                    text("UPDATE images SET manifest = :m WHERE name = :n"),
                    {"m": '{"digest": 7}', "n": image.name},
                ),
            ],
        )
        with pytest.raises(RowUnreadable, match="melted"):
            await store.snapshots.get(snapshot.id)
        with pytest.raises(RowUnreadable, match="RuntimeImageManifest"):
            await store.images.get(image.id)
        with pytest.raises(NotFound):
            await store.containers.find("other tables are well")


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "wb-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    with _small_disk(tmp_path, "8m") as folder:
        other = folder / "other"
        other.write_bytes(bytes(6_000_000))
        async with Store.open(f"sqlite:///{folder}/warmboot.db") as store:
            stored = await stored_container(store)
            with pytest.raises(DiskFull, match="free some disk space"):
                while True:
                    await store.events.append("a.b", "x", {"filler": "x" * 50_000})
            assert await store.containers.get(stored.id) == stored
            other.unlink()
            await store.events.trim(keep=0)
            assert await store.events.since(0) == ()


@pytest.mark.postgres
async def test_a_server_that_was_restarted_is_found_again(
    postgres_cluster: PostgresCluster,
) -> None:
    with postgres_cluster.fresh_database() as url:
        async with Store.open(url) as store:
            stored = await stored_container(store)
            await store.containers.get(stored.id)
            postgres_cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'"
            )
            assert await store.containers.get(stored.id) == stored
            await stored_container(store)


def test_a_full_disk_of_postgresql_is_told() -> None:
    import psycopg.errors
    from sqlalchemy.exc import OperationalError

    cause = psycopg.errors.DiskFull("could not extend file: No space left on device")
    error = translated(OperationalError("INSERT", {}, cause))
    assert isinstance(error, DiskFull)
    assert "No space left" in error.details
