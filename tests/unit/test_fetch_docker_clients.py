"""How the set-up gets docker's plugins: pinned Debian packages, from a mirror of the test's own."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import fetch_docker_clients
from scripts.fetch_docker_clients import FetchFailed, Package, fetch, is_there
from typing_extensions import override


class Quiet(http.server.SimpleHTTPRequestHandler):
    @override
    def log_message(self, format: str, *_: object) -> None:
        """Nothing: a test's output is its failures."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def on_mirror(folder: Path, name: str, content: str) -> Package:
    """A Debian package with a plugin that prints ``content``."""
    root = folder / f"{name}-{content}"
    plugins = root / "usr/libexec/docker/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / name).write_text(f"#!/bin/sh\necho {content}\n")
    (plugins / name).chmod(0o755)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: a test\n"
    )
    path = folder / "mirror" / f"{name}_{content}.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(path)], check=True, capture_output=True)
    return Package(path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def pinned(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Package]:
    one = {name: on_mirror(tmp_path, name, "new") for name in ("docker-compose", "docker-buildx")}
    wanted = {name: (package,) for name, package in one.items()}
    monkeypatch.setattr(fetch_docker_clients, "PLUGINS", wanted)
    return one


def said(folder: Path, name: str) -> str:
    plugin = folder / "cli-plugins" / name
    return subprocess.run([plugin], check=True, capture_output=True, text=True).stdout.strip()


def test_the_plugins_are_where_docker_looks_for_them(
    tmp_path: Path, mirror: str, pinned: dict[str, Package]
) -> None:
    folder = tmp_path / "clients"
    assert not is_there(folder)
    fetch(folder, mirror)
    assert is_there(folder)
    assert [said(folder, name) for name in pinned] == ["new", "new"]
    assert list(folder.glob(".fetch-*")) == []


def test_a_package_with_another_sum_is_not_taken(
    tmp_path: Path, mirror: str, pinned: dict[str, Package]
) -> None:
    path = tmp_path / "mirror" / pinned["docker-buildx"].path
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(FetchFailed, match="is not the pinned package"):
        fetch(tmp_path / "clients", mirror)
    assert not is_there(tmp_path / "clients")
    assert not (tmp_path / "clients" / "cli-plugins" / "docker-buildx").exists()


def test_where_the_mirror_has_moved_on_the_version_that_stays_is_taken(
    tmp_path: Path, mirror: str, pinned: dict[str, Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = on_mirror(tmp_path, "docker-compose", "old")
    wanted = {"docker-compose": (pinned["docker-compose"], older)}
    monkeypatch.setattr(fetch_docker_clients, "PLUGINS", wanted)
    (tmp_path / "mirror" / pinned["docker-compose"].path).unlink()
    fetch(tmp_path / "clients", mirror)
    assert said(tmp_path / "clients", "docker-compose") == "old"
    assert is_there(tmp_path / "clients")
    (tmp_path / "mirror" / older.path).unlink()
    with pytest.raises(FetchFailed, match="pin the present version"):
        fetch(tmp_path / "others", mirror)


def test_another_pin_is_fetched_again(
    tmp_path: Path, mirror: str, pinned: dict[str, Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path / "clients", mirror)
    newer = on_mirror(tmp_path, "docker-compose", "newer")
    monkeypatch.setattr(fetch_docker_clients, "PLUGINS", {"docker-compose": (newer,)})
    assert not is_there(tmp_path / "clients")
    fetch(tmp_path / "clients", mirror)
    assert said(tmp_path / "clients", "docker-compose") == "newer"


def test_a_mirror_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    script = Path(fetch_docker_clients.__file__)
    command = [sys.executable, str(script), str(tmp_path / "clients"), "--mirror"]
    done = subprocess.run(
        [*command, "http://127.0.0.1:1/debian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "did not arrive" in done.stderr
    assert "Traceback" not in done.stderr
