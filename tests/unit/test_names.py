"""Names at the door: what is let in, what is refused, and what is invented."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.model.conventions.names import MAX_NAME_LENGTH, check_name, hostname_for, invent_name
from warmboot.model.errors import InvalidName

FIRST = string.ascii_letters + string.digits
REST = FIRST + "_.-"


@given(st.text(st.sampled_from(FIRST), min_size=1, max_size=1), st.text(st.sampled_from(REST)))
def test_good_names_are_returned_as_they_are(first: str, rest: str) -> None:
    name = re.sub(r"\.{2,}", ".", (first + rest)[:MAX_NAME_LENGTH])
    assert check_name(name) == name


@given(st.text())
def test_what_is_let_in_is_safe_as_a_path_a_header_and_an_argument(name: str) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        assert error.resolution
    else:
        assert 1 <= len(name) <= MAX_NAME_LENGTH
        assert set(name) <= set(REST)
        assert name[0] in FIRST
        assert ".." not in name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "../etc", "a..b", "-rf", "_x", ".hidden", "a b", "a\n", "\n"),
        *("a\x00b", "ä", "a\u202eb", "٣", "x" * 64, "x" * 10_000, "a%2fb", "$(id)", "a;b"),
    ],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


def test_the_error_says_what_the_name_is_of() -> None:
    with pytest.raises(InvalidName, match="image name"):
        check_name("a/b", "image name")


def test_an_error_does_not_repeat_a_name_without_end() -> None:
    with pytest.raises(InvalidName) as caught:
        check_name("x" * 100_000)
    assert len(str(caught.value)) < 500


def test_invented_names_are_good_and_differ() -> None:
    names = {invent_name() for _ in range(200)}
    assert len(names) > 190
    assert {check_name(name) for name in names} == names


@given(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", fullmatch=True))
def test_a_host_name_is_a_label(name: str) -> None:
    label = hostname_for(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label)
    assert len(label) <= 63
