"""cp, diff, rename, and the processes of one container."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.cli.conftest import Cli


def flat(text: str) -> str:
    """Without the frame around a mistake of usage."""
    return " ".join(text.replace("│", " ").split())


def test_files_are_copied_in_and_out(cli: Cli, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "web", "redis:7")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "page").write_text("hello")
    assert cli("cp", str(folder), "web:/var").returncode == 0
    assert cli("cp", str(folder / "page"), "web:/tmp/other").returncode == 0
    assert cli("cp", f"{folder}/.", "web:/etc").returncode == 0
    shown = cli("diff", "web").stdout.splitlines()
    assert shown == ["A /etc", "A /etc/page", "A /tmp/other", "A /var/site", "A /var/site/page"]
    assert json.loads(cli("diff", "--json", "web").stdout)[1] == {
        "kind": "added",
        "path": "/etc/page",
    }
    out = tmp_path / "out"
    assert cli("cp", "web:/var/site", str(out)).returncode == 0
    assert (out / "page").read_text() == "hello"
    assert cli("cp", "web:/var/site", str(out)).returncode == 0
    assert (out / "site" / "page").read_text() == "hello"
    assert cli("cp", "web:/tmp/other", f"{out}/").returncode == 0
    assert (out / "other").read_text() == "hello"
    assert cli("cp", "web:tmp/other", str(out / "named")).returncode == 0
    assert (out / "named").read_text() == "hello"


def test_a_tar_is_written_to_standard_output(cli: Cli, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "web", "redis:7")
    (tmp_path / "file").write_text("hello")
    cli("cp", str(tmp_path / "file"), "web:/tmp")
    done = cli("cp", "web:/tmp/file", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout.encode())) as tar:
        assert tar.getnames() == ["file"]


def test_what_cannot_be_copied_is_told(cli: Cli, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "web", "redis:7")
    (tmp_path / "file").write_text("x")
    file = str(tmp_path / "file")
    for words, told in (
        ((file, str(tmp_path)), "one of the two is CONTAINER:PATH"),
        (("web:/a", "web:/b"), "nothing is copied between two containers"),
        (("web:/absent", str(tmp_path)), "there is no /absent in the container"),
        ((file, "web:/absent/file"), "cannot be"),
        ((file, "nobody:/tmp/"), "no container nobody"),
        ((file, "web:/absent/"), "there is no folder /absent"),
        ((str(tmp_path), "web:/tmp/../etc/file"), "cannot be"),
        (("/nowhere/at/all", "web:/tmp"), "'/nowhere/at/all' cannot be used"),
        (("nobody:/tmp", str(tmp_path)), "nobody"),
        (("web:/tmp", f"{file}"), "which is a file"),
    ):
        done = cli("cp", *words)
        assert done.returncode != 0, words
        assert "Traceback" not in done.stderr
        if told != "cannot be":
            assert told in flat(done.stderr), words


def test_the_processes_of_a_container(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "redis:7", "sleep", "77")
    lines = cli("top", "web").stdout.splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert lines[1].endswith("sleep 77")
    assert cli("top", "web", "-eo", "bad").returncode != 0
    assert "CONTAINER" in cli("top", "--once").stdout.upper()
    cli("stop", "web")
    assert "not running" in cli("top", "web").stderr


def test_a_container_is_renamed(cli: Cli) -> None:
    cli("run", "-d", "--name", "old", "redis:7")
    cli("run", "-d", "--name", "other", "redis:7")
    assert cli("rename", "old", "new").returncode == 0
    assert sorted(cli("ps", "--format", "{{.Names}}").stdout.split()) == ["new", "other"]
    taken = cli("rename", "new", "other")
    assert taken.returncode == 1
    assert "other" in taken.stderr
    assert cli("rename", "new", "not/a/name").returncode != 0
