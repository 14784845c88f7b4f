"""Environment variables on a command line and in files, as docker reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warmboot.cli.parsing import parse_environment


def in_file(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "env"
    file.write_bytes(content)
    return file


def test_a_name_without_a_value_has_ours_or_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "here")
    monkeypatch.delenv("GONE", raising=False)
    given = parse_environment(["HERE", "GONE", "EMPTY="], ())
    assert given == {"HERE": "here", "GONE": None, "EMPTY": ""}


def test_the_command_line_takes_away_what_a_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GONE", raising=False)
    assert parse_environment(["GONE"], [in_file(tmp_path, b"GONE=1\n")]) == {"GONE": None}


def test_a_bare_name_in_a_file_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GONE", raising=False)
    assert parse_environment((), [in_file(tmp_path, b"GONE=1\nGONE\nGONE_TOO\n")]) == {"GONE": "1"}


@pytest.mark.parametrize("name", ["Logging:LogLevel:Default", "1X", "a.b-c", "ä b"])
def test_a_name_is_whatever_has_no_equals_sign(name: str) -> None:
    assert parse_environment([f"{name}=v=1"], ()) == {name: "v=1"}


def test_only_a_line_feed_ends_a_line_of_a_file(tmp_path: Path) -> None:
    content = "A=1\fB\x0bC\x1cD\x85E\u2028F\u2029G\rH\r\n\r\n  # a comment\nI= 2 \r\nJ=3"
    expected = {"A": "1\fB\x0bC\x1cD\x85E\u2028F\u2029G\rH", "I": " 2 ", "J": "3"}
    assert parse_environment((), [in_file(tmp_path, content.encode())]) == expected


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert parse_environment((), [in_file(tmp_path, b"\xef\xbb\xbfA=1\n")]) == {"A": "1"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"MY NAME=1", "blank"),
        (b"NAME\t=1", "blank"),
        (b"export A=1", "blank"),
        (b"=1", "no name"),
        (b"A=\xff", "not UTF-8"),
        (b"A=1\x002", "NUL"),
    ],
)
def test_a_line_that_is_none_is_refused_with_file_and_line(
    tmp_path: Path, line: bytes, why: str
) -> None:
    file = in_file(tmp_path, b"# first\nA=1\n" + line + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: ") + f".*{why}"):
        parse_environment((), [file])
