"""The client's sync flavour: it is the async one's, and it works without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.sync_client import SOURCES, SYNC, generated
from tests.cli.conftest import Served

from warmboot.client import ManagerUnreachable, SyncClient
from warmboot.model.errors import InvalidRequest, NotFound


@pytest.fixture
def client(served: Served) -> Iterator[SyncClient]:
    with SyncClient(served.url) as opened:
        yield opened


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_what_is_written_from_the_async_one(name: str) -> None:
    assert (SYNC / f"{name}.py").read_text() == generated(SOURCES[name]), (
        "write it: scripts/sync_client.py"
    )


def test_a_container_is_created_awaited_and_removed(client: SyncClient) -> None:
    container_id = client.containers.create(image="busybox", name="c", command=["echo", "hi"])
    ended = client.containers.wait(container_id)
    assert (ended.name, ended.exit_code) == ("c", 0)
    assert b"".join(chunk.data for chunk in client.containers.logs("c")) == b"hi\n"
    assert [one.id for one in client.containers.iterate(all_states=True)] == [container_id]
    client.containers.delete("c")
    with pytest.raises(NotFound, match="no container c"):
        client.containers.get("c")


def test_a_session_is_written_to_and_read(client: SyncClient) -> None:
    client.containers.create(image="busybox", name="c")
    client.containers.wait("c", "running")
    with client.containers.exec("c", ["cat"], stdin=True) as session:
        session.write(b"given")
        session.write_eof()
        assert b"".join(chunk.data for chunk in session) == b"given"
        assert (session.exit_code, session.ended) == (0, True)


def test_files_are_copied_in_and_out(client: SyncClient, tmp_path: Path) -> None:
    client.containers.create(image="busybox", name="c")
    client.containers.wait("c", "running")
    (tmp_path / "file").write_text("content")
    client.files.copy_in("c", tmp_path / "file", "/tmp/there")
    tar = b"".join(client.files.read("c", "/tmp/there"))
    client.files.write("c", "/var", iter([tar[:100], tar[100:]]))
    client.files.copy_out("c", "/var/there", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "content"


def test_events_come_while_they_are_followed(client: SyncClient) -> None:
    with client.events.follow(kinds=["container.creating"]) as events:
        client.containers.create(image="busybox", name="c")
        assert next(events).data["name"] == "c"


def test_who_does_not_want_all_of_a_stream_leaves_it(client: SyncClient) -> None:
    client.containers.create(image="busybox", name="c", command=["ticks", "1000"])
    client.containers.wait("c", "running")
    for chunk in client.containers.logs("c", follow=True):
        assert chunk.data.startswith(b"tick")
        break
    assert client.containers.get("c").state == "running"


def test_several_threads_use_it(client: SyncClient) -> None:
    threads = [
        threading.Thread(target=lambda n=n: client.containers.create(image="b", name=f"c{n}"))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(client.containers.list(all_states=True)) == 8


def test_nothing_of_it_is_left() -> None:
    before = threading.active_count()
    with SyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(ManagerUnreachable):
            client.system.info()
        assert threading.active_count() > before
    assert threading.active_count() == before
    with pytest.raises(InvalidRequest, match="the client is not open"):
        client.system.info()


def test_what_goes_wrong_inside_is_raised_as_it_is(client: SyncClient) -> None:
    with pytest.raises(NotFound), client.containers.exec("nobody", ["true"]):
        raise AssertionError("there is no session")
    with pytest.raises(ZeroDivisionError), SyncClient("http://127.0.0.1:9") as other:
        with pytest.raises(ManagerUnreachable):
            other.system.info()
        raise ZeroDivisionError
