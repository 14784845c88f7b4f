"""Which state may follow which: the tables, and the rules that hold for every table."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.model.checkpoint import CHECKPOINT_TRANSITIONS
from warmboot.model.container import CONTAINER_TRANSITIONS, ContainerState
from warmboot.model.errors import IllegalTransition
from warmboot.model.runtime_snapshot import SNAPSHOT_TRANSITIONS, SnapshotState
from warmboot.model.transitions import Transitions
from warmboot.model.worker import WORKER_TRANSITIONS
from warmboot.store.repositories.operations import OPERATION_TRANSITIONS

TABLES: list[Transitions[Any]] = [
    CONTAINER_TRANSITIONS,
    SNAPSHOT_TRANSITIONS,
    WORKER_TRANSITIONS,
    CHECKPOINT_TRANSITIONS,
    OPERATION_TRANSITIONS,
]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.what)
def test_every_state_has_a_row_and_nothing_else_is_named(table: Transitions[Any]) -> None:
    kind: type[StrEnum] = type(next(iter(table.table)))
    states = set(kind)
    assert set(table.table) == states
    assert all(targets <= states for targets in table.table.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.what)
def test_no_state_follows_itself(table: Transitions[Any]) -> None:
    """A guarded update that changes nothing would hide that two did the same."""
    assert not any(state in targets for state, targets in table.table.items())


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.what)
def test_every_state_leads_to_an_end(table: Transitions[Any]) -> None:
    ends = {state for state, targets in table.table.items() if not targets}
    for start in table.table:
        seen, border = {start}, {start}
        while border:
            border = set().union(*(table.table[state] for state in border)) - seen
            seen |= border
        assert seen & ends, f"from {start} there is no way to an end"


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.what)
@given(data=st.data())
def test_allows_sources_and_check_say_the_same(
    table: Transitions[Any], data: st.DataObject
) -> None:
    states = st.sampled_from(sorted(table.table))
    old: StrEnum = data.draw(states)
    new: StrEnum = data.draw(states)
    assert table.allows(old, new) == (old in table.sources(new))
    if table.allows(old, new):
        assert table.check(old, new) is new
    else:
        with pytest.raises(IllegalTransition) as caught:
            table.check(old, new)
        assert str(old) in caught.value.brief
        assert str(new) in caught.value.brief


def test_anything_may_be_deleted_but_what_is_deleted() -> None:
    assert SNAPSHOT_TRANSITIONS.sources(SnapshotState.DELETED) == frozenset(SnapshotState) - {
        SnapshotState.DELETED
    }
    assert CONTAINER_TRANSITIONS.sources(ContainerState.DELETING) == frozenset(ContainerState) - {
        ContainerState.DELETING
    }


def test_a_failed_container_comes_back_only_through_creating() -> None:
    assert CONTAINER_TRANSITIONS.table[ContainerState.FAILED] == {
        ContainerState.CREATING,
        ContainerState.DELETING,
    }
