"""The runtime of workers as the engine's shim calls it, in front of a runc that tells its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmboot.criu.runtime import program
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.orders import Runc, forget, order, runc_of, sparing_check, withdraw
from warmboot.criu.runtime.sums import BLOCK_BYTES
from warmboot.criu.setup.install_runtime import text_for

ID = "c0ffee" * 10
BUNDLE = ("--bundle", "{bundle}", "--pid-file", "/b/init.pid")
GLOBAL = ("--root", "/run/r", "--log", "{log}", "--log-format", "json")


class Runtime:
    """The program with a state folder of its own, and a runc that prints PATH and its words."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text('{"annotations": {"a": "b"}, "root": {}}')
        self.log = folder / "log.json"
        self.program = folder / "runtime"
        text = text_for(Path(sys.executable)).replace(program.STATE, str(self.state))
        self.program.write_text(text)
        self.program.chmod(0o755)
        self.bin = folder / "bin"
        self.bin.mkdir()
        runc = self.bin / "runc"
        runc.write_text('#!/bin/sh\necho "$PATH"\nfor word; do echo "$word"; done\nexit 7\n')
        runc.chmod(0o755)

    def __call__(self, *words: str) -> tuple[int, list[str]]:
        """Its exit code, and what it wrote: runc's PATH and words if it became that."""
        given = [self.filled(word) for word in (*GLOBAL, *words)]
        path = f"{self.bin}:{os.environ['PATH']}"
        done = subprocess.run(
            [self.program, *given], stdout=subprocess.PIPE, text=True, env={"PATH": path}
        )
        return done.returncode, done.stdout.splitlines()

    def words(self, *words: str) -> list[str]:
        """What runc was asked for, without the options before its command."""
        code, told = self(*words)
        assert code == 7
        assert told[1:7] == [self.filled(word) for word in GLOBAL]
        return told[7:]

    def filled(self, word: str) -> str:
        return word.format(log=self.log, bundle=self.bundle)

    def order(self, images: Path) -> None:
        order(
            ID,
            search_path="/criu/bin",
            images=images,
            work=images / "work",
            options=("file-locks", "link-remap"),
            root=self.state,
        )


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("create", *BUNDLE, ID),
        ("start", ID),
        ("state", ID),
        ("kill", "--all", ID, "9"),
        ("delete", "--force", ID),
        ("exec", "--process", "/p", "--detach", "--pid-file", "/p/pid", ID),
        ("features",),
    ],
    ids=lambda words: words[0],
)
def test_without_an_order_all_is_handed_to_runc(runtime: Runtime, words: tuple[str, ...]) -> None:
    assert runtime.words(*words) == [runtime.filled(word) for word in words]


def test_create_notes_which_runc_has_the_container(runtime: Runtime) -> None:
    runtime("create", *BUNDLE, ID)
    assert runc_of(ID, runtime.state) == Runc(runtime.bin / "runc", Path("/run/r"))
    runtime("delete", ID)
    assert runc_of(ID, runtime.state) is None
    assert list(runtime.state.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        '{"annotations": {"a": "b"}, "root": {}}',
        '{"annotations": null, "root": {}}',
        '{"ociVersion": "1.0", "process": {"args": ["\\"annotations\\"", "\u00e9"]}}',
        '{\n\t"root": {}\n}',
        "{}",
    ],
    ids=["some", "null", "none", "written over lines", "nothing"],
)
def test_create_says_where_runc_finds_the_options_of_criu(runtime: Runtime, config: str) -> None:
    path = runtime.bundle / "config.json"
    path.write_text(config)
    runtime("create", *BUNDLE, ID)
    runtime("create", *BUNDLE, ID)  # twice is once
    before = json.loads(config)
    there = before.pop("annotations", None) or {}
    assert json.loads(path.read_text()) == {
        **before,
        "annotations": {**there, "org.criu.config": str(runtime.state / ID / "criu.conf")},
    }


def test_an_order_makes_a_create_a_restore(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    assert runtime.words("create", *BUNDLE, "--no-pivot", "--preserve-fds", "3", ID) == [
        "restore",
        "--detach",
        "--image-path",
        str(tmp_path),
        "--work-path",
        f"{tmp_path}/work",
        *(runtime.filled(word) for word in BUNDLE),
        "--no-pivot",
        ID,
    ]


def test_the_order_says_where_criu_is_and_what_it_is_told(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    _, told = runtime("create", *BUNDLE, ID)
    assert (runtime.state / ID / "criu.conf").read_text() == "file-locks\nlink-remap\n"
    assert told[0].startswith(f"/criu/bin:{runtime.bin}:")


def test_the_start_of_what_was_restored_ends_the_order(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    runtime("create", *BUNDLE, ID)
    assert runtime("start", ID) == (0, [])
    assert runtime.words("start", ID) == ["start", ID]
    assert runtime.words("create", *BUNDLE, ID)[0] == "create"


def test_an_order_outlives_a_restore_that_failed(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    runtime("create", *BUNDLE, ID)
    runtime("delete", "--force", ID)  # as the shim does then
    assert runtime.words("create", *BUNDLE, ID)[0] == "restore"


def test_after_an_order_is_withdrawn_a_create_is_one(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    runtime("create", *BUNDLE, ID)
    runtime("delete", "--force", ID)
    withdraw(ID, runtime.state)
    assert list(runtime.state.iterdir()) == []
    assert runtime.words("create", *BUNDLE, ID)[0] == "create"
    assert runtime.words("start", ID) == ["start", ID]


def test_what_a_killed_manager_was_writing_goes_with_the_container(
    runtime: Runtime, tmp_path: Path
) -> None:
    runtime("create", *BUNDLE, ID)
    runtime.order(tmp_path)
    runtime("start", ID)
    (runtime.state / ID / ".resume.half").touch()
    runtime("delete", ID)
    withdraw(ID, runtime.state)
    assert (runtime.state / ID).exists(), "the runtime removes what it has noted, and no more"
    forget(ID, runtime.state)
    forget(ID, runtime.state)
    assert list(runtime.state.iterdir()) == []


def test_what_is_damaged_is_not_restored_whoever_starts_it(
    runtime: Runtime, tmp_path: Path
) -> None:
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    pages = folder.begin().memory / "pages-1.img"
    pages.write_bytes(os.urandom(BLOCK_BYTES + 5))
    folder.publish()
    runtime.order(folder.memory)
    assert runtime.words("create", *BUNDLE, ID)[0] == "restore"
    runtime("delete", ID)
    with (folder.memory / pages.name).open("r+b") as file:
        file.seek(BLOCK_BYTES + 1)
        byte = file.read(1)
        file.seek(BLOCK_BYTES + 1)
        file.write(bytes([byte[0] ^ 1]))
    assert runtime("create", *BUNDLE, ID) == (1, [])
    assert "pages-1.img is not what was written" in json.loads(runtime.log.read_text())["msg"]


def test_what_was_checked_just_now_is_not_checked_again(runtime: Runtime, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    (folder.begin().memory / "inventory.img").write_bytes(b"x")
    folder.publish()
    (folder.memory / "inventory.img").write_bytes(b"y")
    runtime.order(folder.memory)
    with sparing_check(ID, runtime.state) as spare:
        assert runtime("create", *BUNDLE, ID)[0] == 1, "it is not checked yet"
        spare()
        assert runtime.words("create", *BUNDLE, ID)[0] == "restore"
        assert runtime("create", *BUNDLE, ID)[0] == 1, "for one start"
    with sparing_check(ID, runtime.state) as spare:
        spare()
    assert runtime("create", *BUNDLE, ID)[0] == 1


def test_what_a_killed_manager_has_checked_spares_no_later_start_its_check(
    runtime: Runtime, tmp_path: Path
) -> None:
    folder = CheckpointFolder(tmp_path / "worker" / "cp")
    (folder.begin().memory / "inventory.img").write_bytes(b"x")
    folder.publish()
    runtime.order(folder.memory)
    killed = sparing_check(ID, runtime.state)
    spare = killed.__enter__()
    assert runtime.words("create", *BUNDLE, ID)[0] == "restore"
    spare()  # too late, and nobody takes it back
    runtime("start", ID)
    runtime("delete", ID)
    (folder.memory / "inventory.img").write_bytes(b"y")
    runtime.order(folder.memory)
    assert runtime("create", *BUNDLE, ID)[0] == 1
    killed.__exit__(None, None, None)


def test_an_order_is_for_one_container(runtime: Runtime, tmp_path: Path) -> None:
    runtime.order(tmp_path)
    assert runtime.words("create", *BUNDLE, "beef" * 16)[0] == "create"


def test_what_hinders_the_runtime_itself_is_in_the_log_that_the_shim_reads(
    runtime: Runtime,
) -> None:
    runtime.state.write_text("a file")
    assert runtime("create", *BUNDLE, ID) == (1, [])
    told = json.loads(runtime.log.read_text())
    assert told["level"] == "error"
    assert str(runtime.state) in told["msg"]


def test_nothing_but_os_and_sys_is_imported(runtime: Runtime) -> None:
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", runtime.program, "describe"],
        capture_output=True,
        text=True,
        check=True,
    )
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", "-c", ""],
        capture_output=True,
        text=True,
        check=True,
    )
    assert _modules(told.stderr) <= _modules(bare.stderr) | {"os", "sys", "stat", "posixpath"} | {
        "_stat",
        "genericpath",
        "_collections_abc",
        "abc",
        "_abc",
    }


def _modules(importtime: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in importtime.splitlines()}
