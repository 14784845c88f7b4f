"""What a guest that speaks by hand cannot have the server of its folders keep."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from warmboot.folder_server import listing, rpc
from warmboot.folder_server.listing import Listings
from warmboot.folder_server.rpc import Program, Server
from warmboot.folder_server.tree import Tree
from warmboot.folder_server.xdr import Reader

PROGRAM, SLOW = 100003, 7


def answered(_: Reader) -> list[bytes]:
    return []


@contextmanager
def served(*, privileged: bool = False) -> Iterator[tuple[Server, tuple[str, int]]]:
    programs = {PROGRAM: Program(3, {0: answered, SLOW: answered}, frozenset({SLOW}))}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(programs, privileged=privileged)
        serving = threading.Thread(target=server.serve, args=(listener,))
        serving.start()
        try:
            yield server, listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def call(procedure: int = 0) -> bytes:
    return struct.pack(">IIIIII", 1, 0, 2, PROGRAM, 3, procedure) + bytes(16)


def is_answered(address: tuple[str, int]) -> bool:
    return bool(answer(address, struct.pack(">I", 1 << 31 | len(call())) + call()))


def answer(address: tuple[str, int], said: bytes) -> bytes:
    """Nothing, if the server hangs up."""
    with (
        suppress(ConnectionError),
        socket.create_connection(address, timeout=60) as client,
    ):
        client.sendall(said)
        return client.recv(4)
    return b""


def test_who_comes_from_a_port_that_anybody_may_have_is_not_answered() -> None:
    """Whatever has become of the rules that let no such connection in."""
    with served(privileged=True) as (_, address):
        assert not is_answered(address)


def test_a_call_in_endless_empty_fragments_is_not_collected() -> None:
    with served() as (_, address):
        assert answer(address, bytes(4 * 300)) == b""
        assert is_answered(address)


def test_what_is_under_way_is_limited_for_all_connections_together() -> None:
    """Whoever asks and hangs up has a new connection, and no new room."""
    waiting: list[Callable[[], None]] = []

    class Workers:
        def submit(self, work: Callable[..., None], *arguments: object) -> None:
            waiting.append(lambda: work(*arguments))

    with served() as (server, _):
        server._workers = Workers()  # type: ignore[assignment]
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        first, second = (server._conversation(one) for one in theirs)
        for _ in range(rpc._MOST_AT_WORK):
            first._take(call(SLOW))
        another = threading.Thread(target=second._take, args=(call(SLOW),))
        another.start()
        another.join(0.2)
        assert another.is_alive()
        waiting[0]()
        another.join()
        assert len(waiting) == rpc._MOST_AT_WORK + 1
        for one in (*ours, *theirs):
            one.close()


def test_a_server_that_cannot_have_a_thread_takes_connections_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its owner has as many processes as a user may have."""
    start, refused = threading.Thread.start, threading.Event()

    def started(thread: threading.Thread) -> None:
        if not refused.is_set() and thread.name.endswith("(_converse)"):
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    with served() as (_, address):
        monkeypatch.setattr(threading.Thread, "start", started)
        assert not is_answered(address)
        assert is_answered(address)


def test_lists_of_large_folders_are_not_kept_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_ENTRIES_KEPT", 25)
    tree = Tree({"00" * 8: str(tmp_path)})
    root, listings = tree.root("00" * 8), Listings(tree)
    assert root is not None
    for number, names in enumerate((10, 15, 10, 40)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in range(names):
            (folder / str(name)).touch()
        node = tree.child(root, folder.name.encode(), folder.lstat())
        told = b"".join(listings.names(node, os.lstat(node.path), 0, 1 << 20))
        assert all(str(name).encode() in told for name in range(names))
        kept = [len(entries) for _, entries in listings._kept.values()]
        assert kept == [[10], [10, 15], [15, 10], [40]][number]
