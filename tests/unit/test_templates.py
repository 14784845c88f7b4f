"""``--format``: the part of Go's templates that is understood, and what is said of the rest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.cli.docker.templates import Template

THING = {
    "id": "1b4e",
    "exit_code": None,
    "tty": True,
    "shape": {"vcpus": 2},
    "command": ["sh", "-c"],
    "labels": {"b": "2", "a.x": "1"},
}


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{.id}}", "1b4e"),
        ("{{ .Id }} is {{.ID}}", "1b4e is 1b4e"),
        ("{{.Shape.Vcpus}}", "2"),
        ("{{.ExitCode}}", "<no value>"),
        ("{{.tty}}", "true"),
        ("{{.command}}", "[sh -c]"),
        ("{{.labels}}", "map[a.x:1 b:2]"),
        ("{{json .shape}}", '{"vcpus": 2}'),
        ("{{json .exit_code}}", "null"),
        (r"{{.id}}\t{{.tty}}", "1b4e\ttrue"),
        ("no field", "no field"),
    ],
)
def test_fields_are_shown_as_go_does(template: str, line: str) -> None:
    assert Template(template).line(THING) == line


@pytest.mark.parametrize("template", ["{{json .}}", "json"])
def test_the_whole_as_json(template: str) -> None:
    assert json.loads(Template(template).line(THING)) == THING


def test_a_table_has_headings() -> None:
    table = Template(r"table {{.ID}}\t{{.BootMethod}}\t{{.Names}}")
    assert table.table
    assert table.headings({"ID": "CONTAINER ID"}) == ["CONTAINER ID", "BOOT METHOD", "NAMES"]
    assert Template(r"table {{.id}}\t{{.tty}}").cells(THING) == ["1b4e", "true"]


@pytest.mark.parametrize(
    "template",
    [
        "{{range .command}}{{.}}{{end}}",
        "{{.}}",
        "{{.id",
        "id}}",
        "{{if .tty}}x{{end}}",
        "{{.id | upper}}",
        "{{index .command 0}}",
        "{{.a..b}}",
    ],
)
def test_what_is_not_understood_says_what_is(template: str) -> None:
    with pytest.raises(ValueError, match=r"understood are \{\{.Field\}\}"):
        Template(template)


def test_a_field_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"there is no field .shape.memory; there are: .shape.vc"):
        Template("{{.shape.memory}}").line(THING)
    with pytest.raises(ValueError, match=r"\.id has no fields, and so no \.x"):
        Template("{{.id.x}}").line(THING)


@given(st.text())
def test_whatever_is_typed_is_shown_or_refused(text: str) -> None:
    try:
        Template(text).line(THING)
    except ValueError as error:
        assert str(error)
