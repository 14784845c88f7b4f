"""What ``doctor --fix`` changes in files of the machine's owner, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.criu.setup.install import make_way, write_launcher
from warmboot.criu.setup.settings_files import (
    enable_experimental,
    enable_tcp_established,
    has_tcp_established,
    register_runtime,
    unregister_runtime,
)
from warmboot.model.errors import InvalidRequest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{\n    "zeta": "größer",\n    "alpha": [1.0,2]\n}',
            '{\n    "zeta": "größer",\n    "alpha": [1.0,2],\n    "experimental": true\n}',
        ),
        ('{\r\n\t"a" : {}\r\n}\r\n', '{\r\n\t"a" : {},\r\n\t"experimental" : true\r\n}\r\n'),
        ('{"debug": true}', '{"debug": true, "experimental": true}'),
        ('{"debug": true, "dns": []}', '{"debug": true, "dns": [], "experimental": true}'),
        ('{"a":1,"b":2}', '{"a":1,"b":2,"experimental":true}'),
        ('{"a":1}', '{"a":1,"experimental":true}'),
        ('{"experimental":  false, "b": 2}', '{"experimental":  true, "b": 2}'),
        (
            '{"experimental": true, "experimental": false}',
            '{"experimental": true, "experimental": true}',
        ),
        ('{"a": {"experimental": true}}', '{"a": {"experimental": true}, "experimental": true}'),
        ('{"}": "{,\\"", "b": 1e5}\n', '{"}": "{,\\"", "b": 1e5, "experimental": true}\n'),
        ('\ufeff{"a": 1}', '\ufeff{"a": 1, "experimental": true}'),
        ("{ }\n", '{\n  "experimental": true\n}\n'),
        (" \n", '{\n  "experimental": true\n}\n'),
    ],
)
def test_daemon_json_keeps_its_form(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_bytes(before.encode())
    backup = enable_experimental(path)
    assert path.read_bytes().decode() == after
    assert json.loads(after.removeprefix("\ufeff"))["experimental"] is True
    assert backup is not None
    assert backup.read_bytes() == before.encode()
    assert enable_experimental(path) is None


OURS = '"warmboot": {"path": "/r"}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f'{{\n  "runtimes": {{{OURS}}}\n}}\n'),
        ('{"debug": true}', f'{{"debug": true, "runtimes": {{{OURS}}}}}'),
        (
            '{\n  "runtimes": {\n    "crun": {"path": "c"}\n  },\n  "b": 1\n}',
            f'{{\n  "runtimes": {{\n    "crun": {{"path": "c"}},\n    {OURS}\n  }},\n  "b": 1\n}}',
        ),
        ('{"runtimes": {}}', f'{{"runtimes": {{\n  {OURS}\n}}}}'),
        ('{"runtimes": null}', f'{{"runtimes": {{{OURS}}}}}'),
        ('{"runtimes": {"warmboot": {"path": "/old"}}}', f'{{"runtimes": {{{OURS}}}}}'),
    ],
)
def test_the_runtime_is_merged_into_daemon_json(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "daemon.json"
    if before:
        path.write_text(before)
    assert register_runtime(path, "warmboot", Path("/r")) is not None
    assert path.read_text() == after
    json.loads(after)
    assert register_runtime(path, "warmboot", Path("/r")) is None


def test_runtimes_of_another_form_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"runtimes": ["crun"]}')
    with pytest.raises(InvalidRequest, match="nothing was changed"):
        register_runtime(path, "warmboot", Path("/r"))
    assert path.read_text() == '{"runtimes": ["crun"]}'


def test_what_is_not_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidRequest, match="nothing was changed"):
        enable_experimental(path)
    assert [one.name for one in tmp_path.iterdir()] == ["daemon.json"]


def test_a_link_stays_one_and_its_target_is_written(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles"
    kept.mkdir()
    (kept / "docker.json").write_text('{"debug": true}')
    (kept / "docker.json").chmod(0o640)
    (kept / "runc").write_text("log-level 4\n")
    daemon_json, runc_conf = tmp_path / "daemon.json", tmp_path / "runc.conf"
    daemon_json.symlink_to("dotfiles/docker.json")
    runc_conf.symlink_to(kept / "runc")
    enable_experimental(daemon_json)
    enable_tcp_established(runc_conf)
    assert daemon_json.readlink() == Path("dotfiles/docker.json")
    assert runc_conf.readlink() == kept / "runc"
    assert json.loads((kept / "docker.json").read_text())["experimental"] is True
    assert (kept / "docker.json").stat().st_mode & 0o777 == 0o640
    assert (kept / "runc").read_text() == "log-level 4\ntcp-established\n"
    assert (kept / "docker.json.warmboot-backup").read_text() == '{"debug": true}'
    assert (kept / "runc.warmboot-backup").read_text() == "log-level 4\n"


def test_a_link_that_leads_nowhere_has_its_target_made(tmp_path: Path) -> None:
    link, target = tmp_path / "runc.conf", tmp_path / "elsewhere" / "runc"
    link.symlink_to(target)
    assert enable_tcp_established(link) == link
    assert link.is_symlink()
    assert has_tcp_established(target)


def test_a_link_to_itself_is_told(tmp_path: Path) -> None:
    link = tmp_path / "runc.conf"
    link.symlink_to(link)
    with pytest.raises(OSError, match="levels of symbolic links"):
        enable_tcp_established(link)
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"# mine \xff\nlog-level 4", b"# mine \xff\nlog-level 4\ntcp-established\n"),
        (b"log-level 4\r\n", b"log-level 4\r\ntcp-established\r\n"),
    ],
)
def test_runc_conf_is_kept_beside_the_new_one(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "runc.conf"
    path.write_bytes(before)
    backup = enable_tcp_established(path)
    assert path.read_bytes() == after
    assert backup == tmp_path / "runc.conf.warmboot-backup"
    assert backup.read_bytes() == before
    assert enable_tcp_established(path) is None


def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "runc.conf"
    path.write_text("")
    os.setxattr(path, "user.mine", b"1")
    enable_tcp_established(path)
    assert os.getxattr(path, "user.mine") == b"1"


def test_another_program_at_the_place_of_ours_is_set_aside(tmp_path: Path) -> None:
    theirs, wrapper = tmp_path / "theirs", tmp_path / "criu"
    theirs.write_text("#!/bin/sh\n")
    wrapper.symlink_to(theirs)
    aside = make_way(wrapper)
    write_launcher(wrapper, ["/opt/criu"])
    assert aside == tmp_path / "criu.warmboot-backup"
    assert aside.readlink() == theirs
    assert theirs.read_text() == "#!/bin/sh\n"
    assert not wrapper.is_symlink()
    assert make_way(wrapper) is None, "our own is written anew"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f'{{"runtimes": {{{OURS}}}}}', "{}"),
        (f'{{"a": 1, "runtimes": {{{OURS}}}, "b": 2}}', '{"a": 1, "b": 2}'),
        (f'{{\n  "a": 1,\n  "runtimes": {{{OURS}}}\n}}\n', '{\n  "a": 1\n}\n'),
        (
            f'{{"runtimes": {{{OURS}, "crun": {{"path": "c"}}}}}}',
            '{"runtimes": {"crun": {"path": "c"}}}',
        ),
        (
            f'{{"runtimes": {{"crun": {{"path": "c"}}, {OURS}}}}}',
            '{"runtimes": {"crun": {"path": "c"}}}',
        ),
        (f'\ufeff{{"runtimes": {{{OURS}}}}}', "\ufeff{}"),
    ],
)
def test_the_runtime_is_taken_out_of_daemon_json(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(before)
    assert unregister_runtime(path, "warmboot") is not None
    assert path.read_text() == after
    assert unregister_runtime(path, "warmboot") is None


@pytest.mark.parametrize("text", ["", "{}", '{"runtimes": null}', '{"runtimes": {"crun": {}}}'])
def test_where_the_runtime_is_not_registered_nothing_changes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    assert unregister_runtime(path, "warmboot") is None
    assert path.read_text() == text


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=4))
def test_registering_and_taking_out_again_leaves_what_there_was(others: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "daemon.json"
        path.write_text(json.dumps({**others, "runtimes": {"crun": {"path": "c"}}}))
        before = json.loads(path.read_text())
        register_runtime(path, "warmboot", Path("/r"))
        unregister_runtime(path, "warmboot")
        assert json.loads(path.read_text()) == before
