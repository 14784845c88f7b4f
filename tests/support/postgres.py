"""A private PostgreSQL cluster for tests: a temporary folder, a Unix socket, no network, no fsync.

PostgreSQL refuses to run as root, so as root it is run as ``postgres``. It is told to stop should
the process that started it die.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
_READY = "database system is ready to accept connections"


@dataclass(frozen=True)
class PostgresCluster:
    socket_dir: Path
    user: str
    pid: int

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@/{database}?host={self.socket_dir}"

    @contextmanager
    def fresh_database(self, like: str = "template1") -> Iterator[str]:
        """An empty database, or a copy of ``like``; its URL.

        Dropped at the end, even if somebody is still connected.
        """
        name = f"test_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def private_cluster() -> Iterator[PostgresCluster]:
    """Start a cluster, and stop and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="warmboot-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        _run("initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with _server(data, folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


@contextmanager
def _server(data: Path, socket_dir: Path) -> Iterator[PostgresCluster]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "log_min_messages": "warning",
        "log_min_error_statement": "panic",
    }
    command = [*_as_user(), str(_binary("postgres")), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd="/", env=_environment()
    )
    ready, lines = threading.Event(), list[str]()

    def listen() -> None:
        assert server.stderr is not None
        for line in server.stderr:
            lines.append(line)
            if _READY in line:
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        if not ready.wait(START_TIMEOUT_S) or not any(_READY in line for line in lines):
            raise RuntimeError("PostgreSQL did not start:\n" + "".join(lines))
        yield PostgresCluster(socket_dir, _user(), server.pid)
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        listener.join()
        assert server.stderr is not None
        server.stderr.close()


def _user() -> str:
    return "postgres" if os.geteuid() == 0 else os.environ.get("USER", "postgres")


def _as_user() -> list[str]:
    """What to put before a command of PostgreSQL's."""
    change = ["--reuid=postgres", "--regid=postgres", "--init-groups"]
    return ["setpriv", *(change if os.geteuid() == 0 else []), "--pdeathsig=INT", "--"]


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [*_as_user(), str(_binary(program)), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        cwd="/",
        env=_environment(),
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "America/New_York"}


def _binary(name: str) -> Path:
    """From the newest version there is: Debian keeps the server's programs off PATH."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(versions, key=lambda path: int(path.parts[4]), default=None)
    found = newest or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install postgresql")
    return Path(found)
