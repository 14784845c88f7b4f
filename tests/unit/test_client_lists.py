"""The client reads a list part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmboot.client.decode import PART_ITEMS, all_items
from warmboot.client.results import Event


class Manager:
    """Has five events, and gives two at a time; an older one knows no parts."""

    def __init__(self, *, older: bool = False) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._older = older

    async def get(self, path: str, params: Mapping[str, Any]) -> Any:
        assert path == "/v1/events"
        self.asked.append(dict(params))
        if self._older:
            return {"items": [event(number) for number in range(1, 6)]}
        first = int(params.get("cursor", 0)) + 1
        answer: dict[str, Any] = {"items": [event(n) for n in range(first, min(first + 2, 6))]}
        if first + 2 < 6:
            answer["next_cursor"] = str(first + 1)
        return answer


def event(number: int) -> Mapping[str, Any]:
    return {
        "id": number,
        "at": "2026-01-02T03:04:05+00:00",
        "kind": "container.running",
        "subject_id": "c",
        "data": {},
    }


async def test_all_parts_are_read() -> None:
    manager = Manager()
    found = [one.id async for one in all_items(Event, manager.get, "/v1/events", {"all": "true"})]
    assert found == [1, 2, 3, 4, 5]
    whole = {"all": "true", "limit": PART_ITEMS}
    assert manager.asked == [whole, {**whole, "cursor": "2"}, {**whole, "cursor": "4"}]


async def test_a_part_is_asked_for_when_it_is_needed() -> None:
    manager = Manager()
    async for one in all_items(Event, manager.get, "/v1/events"):
        if one.id == 2:
            break
    assert len(manager.asked) == 1


async def test_an_older_manager_gives_all_at_once() -> None:
    manager = Manager(older=True)
    assert len([one async for one in all_items(Event, manager.get, "/v1/events")]) == 5
    assert len(manager.asked) == 1
