"""What is done alike with containers, engines and workers: they are listed, awaited, removed."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from warmboot.client.decode import all_items, item, wait_for
from warmboot.client.transport import Transport, segment

T = TypeVar("T")


def given(**values: Any) -> dict[str, Any]:
    """Those that are not ``None``: what is not given is not sent."""
    return {name: value for name, value in values.items() if value is not None}


def flags(**values: bool) -> dict[str, str]:
    """Parameters for those that are set."""
    return {name: "true" for name, value in values.items() if value}


class Resource(Generic[T]):
    """``ref`` is a name, an id, or the beginning of an id."""

    TYPE: ClassVar[type[Any]]
    WHAT: ClassVar[str]

    def __init__(self, link: Transport) -> None:
        self._link = link

    def _path(self, ref: str, *what: str) -> str:
        return "/".join([f"/v1/{self.WHAT}s", segment(ref, self.WHAT), *what])

    async def list(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> builtins.list[T]:
        """Those in ``states`` that have all ``labels`` and ``name`` in their name."""
        return [one async for one in self.iterate(states=states, labels=labels, name=name)]

    def iterate(
        self, *, states: Sequence[str] = (), labels: Sequence[str] = (), name: str = ""
    ) -> AsyncIterator[T]:
        """As ``list``, newest first; the next page is asked for when it is needed."""
        return self._all({"state": states, "label": labels, "name": name})

    def _all(self, wanted: Mapping[str, Any]) -> AsyncIterator[T]:
        params = {key: value for key, value in wanted.items() if value}
        return all_items(self.TYPE, self._link.get, f"/v1/{self.WHAT}s", params)

    async def get(self, ref: str) -> T:
        """The one that is called so. ``NotFound``."""
        found: T = item(self.TYPE, await self._link.get(self._path(ref)))
        return found

    async def _until(
        self, ref: str, until: str, holds: Callable[[T], bool], timeout_s: float | None
    ) -> T:
        async def ask(wait_s: float) -> T:
            params = {"until": until, "timeout_s": wait_s}
            answer = await self._link.get(self._path(ref, "wait"), params, timeout=wait_s + 30)
            found: T = item(self.TYPE, answer)
            return found

        return await wait_for(ask, holds, timeout_s)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        """Remove it, with ``force`` also while it runs. ``NotFound``, ``InUse``."""
        await self._link.delete(self._path(ref), {"force": "true"} if force else {})
