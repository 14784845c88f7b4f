"""What is said about a mistake on the command line: a sentence of ours, and what to do here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from tests.support.command_line import PROGRAM, run_here

VALIDATORS_WORDS = ("Input should", "String should", "Value error", "pydantic", "parse string")


def said(*words: str) -> tuple[int, str]:
    """The exit code, and the sentence, without the frame around it."""
    ran = run_here(words, {"COLUMNS": "200", "WARMBOOT_URL": "http://127.0.0.1:9"})
    lines = (line.strip("│╭╮╰╯─ ") for line in ran.stderr.splitlines())
    return ran.returncode, " ".join(line for line in lines if line)


def parameters() -> Iterator[tuple[tuple[str, ...], Any]]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        for parameter in command.params:
            yield path, parameter

    yield from walk(PROGRAM, ())


def typed(kind: type) -> list[Any]:
    """The options of all commands whose value is such a one."""
    return [
        pytest.param((*path, parameter.opts[0]), id=" ".join((*path, parameter.opts[0])))
        for path, parameter in parameters()
        if parameter.param_type_name == "option"
        and kind in (wanted := parameter.type_descriptor.annotation, *get_args(wanted))
    ]


@pytest.mark.parametrize("words", typed(int))
def test_what_is_no_whole_number_is_called_that(words: tuple[str, ...]) -> None:
    code, sentence = said(*words, "1.5")
    assert code in (2, 125)
    assert sentence.endswith("'1.5' is not a whole number")


@pytest.mark.parametrize("words", typed(float))
@pytest.mark.parametrize("value", ["soon", "nan", "inf"])
def test_what_is_no_number_is_called_that(words: tuple[str, ...], value: str) -> None:
    code, sentence = said(*words, value)
    assert code in (2, 125)
    assert sentence.endswith(f"'{value}' is not a number")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("serve", "--port", "99999"), "99999 is not possible: use 0 to 65535"),
        (("ps", "--last", "-1"), "-1 is not possible: use 0 or more"),
        (("worker", "import", "w", "/no/such/file"), "there is no file /no/such/file"),
        (("worker", "import", "w", "/"), "/ is a folder"),
    ],
)
def test_what_is_possible_is_said(words: tuple[str, ...], sentence: str) -> None:
    code, found = said(*words)
    assert code == 2
    assert found.endswith(sentence)
    assert not any(word in found for word in VALIDATORS_WORDS)
