"""The audit of forks finds what it is for."""

from __future__ import annotations

import pytest
from tests.support.identities import Identity, faults

GOOD = {
    name: Identity(
        {"machine id": name, "address": f"127.0.0.{number}"}, {"boot id": "b", "mac": "m"}
    )
    for number, name in enumerate(("source", "one", "two", "three"))
}


def test_nothing_is_wrong_with_what_is_as_it_should_be() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            Identity({"machine id": "one", "address": "127.0.0.3"}, {"boot id": "b", "mac": "m"}),
            "machine id is 'one' in one, three",
        ),
        (
            Identity({"machine id": "three", "address": ""}, {"boot id": "b", "mac": "m"}),
            "address is '' in three",
        ),
        (
            Identity({"machine id": "three"}, {"boot id": "b", "mac": "m"}),
            "address is None in three",
        ),
        (
            Identity({"machine id": "three", "address": "a"}, {"boot id": "b", "mac": "other"}),
            "mac is 'other' in three alone",
        ),
        (
            Identity({"machine id": "three", "address": "a"}, {"boot id": "b"}),
            "mac is None in three alone",
        ),
    ],
)
def test_what_is_anothers_or_missing_or_has_changed_is_found(bad: Identity, told: str) -> None:
    assert told in faults({**GOOD, "three": bad})
