"""How many VMs the warm pool keeps of which snapshot: a pure function.

    boots of the last minutes ─▶ the most within BURST_S of each other ─▶ wanted of a snapshot
                                                                              │
    one of each, two of each, … those most in demand first ◀──────────────────┘
       │ until ``max_vms``, or what memory allows
       ▼
    fewer than ``min_vms`` in all? more of the one most in demand, or else used last

The wish of a snapshot rises at once, and falls when a burst has left the window: a demand that
comes and goes within it changes nothing. What is there already counts for more, and is given more
memory, than what would have to be made, so that two that are alike do not drive each other out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Bound = int | Literal["auto"]
"""A setting of the pool's size; ``auto`` depends on how a restore maps memory."""

DEFAULT_MIN, DEFAULT_MAX = 1, 8

BURST_S = 30.0
"""Boots within so many seconds find no VM that was made after the first of them: about what the
making of one takes under emulation."""

KEPT_COUNTS = 1.5
"""How much more one that is there counts than one that would have to be made."""


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """From ``min_vms`` to ``max_vms`` in all, by the boots of the last ``window_s`` seconds, within
    ``memory_share`` of the memory that would be free without the pool."""

    min_vms: int = DEFAULT_MIN
    max_vms: int = DEFAULT_MAX
    window_s: float = 600.0
    memory_share: float = 0.25


@dataclass(frozen=True, slots=True)
class Poolable:
    """A snapshot of which VMs may be kept.

    ``boots`` are the times of the boots from it, ``used_at`` that of the last one ever, which may
    be its making. A VM in the pool has ``each_mib`` for itself, and one in use may come to
    ``memory_mib``. ``pooled`` are there. ``idle``: it may be kept though nobody asks for it.
    """

    snapshot_id: UUID
    boots: Sequence[float]
    used_at: float
    each_mib: int
    memory_mib: int
    pooled: int = 0
    idle: bool = True


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The number of each snapshot, those that get none left out, the one most in demand first;
    ``memory_short``: there would be more, were there more memory."""

    wanted: Mapping[UUID, int]
    memory_short: bool = False


def bounds_of(min_vms: Bound, max_vms: Bound, *, lazy_memory: bool) -> tuple[int, int]:
    """The least and the most that are kept. Without ``lazy_memory``, where each VM has all of its
    memory for itself, there are none unless a number was given."""
    if min_vms == "auto" and max_vms == "auto" and not lazy_memory:
        return 0, 0
    most = max(DEFAULT_MAX, 0 if min_vms == "auto" else min_vms) if max_vms == "auto" else max_vms
    return min(DEFAULT_MIN, most) if min_vms == "auto" else min_vms, most


def peak(boots: Sequence[float], since: float) -> int:
    """The most of ``boots``, which ascend, that came within ``BURST_S`` of each other, after
    ``since``."""
    first = bisect_right(boots, since)
    return max(
        (
            number - bisect_left(boots, boots[number] - BURST_S, first) + 1
            for number in range(first, len(boots))
        ),
        default=0,
    )


def size_pool(
    found: Collection[Poolable],
    policy: PoolPolicy,
    now: float,
    free_mib: int,
    *,
    may_grow: bool = True,
) -> PoolSize:
    """``free_mib`` are free beside what is pooled. ``may_grow``: not while it has just given way,
    when only what is there is kept."""
    since = now - policy.window_s
    asked = {one.snapshot_id: _asked(one, since) for one in found}
    wishes = {one.snapshot_id: peak(one.boots, since) for one in found}
    order = sorted(found, key=lambda one: (-asked[one.snapshot_id], -one.used_at, one.snapshot_id))
    memory = _Memory(found, policy, free_mib, may_grow)
    wanted: Counter[UUID] = Counter()
    short = False
    for one in _in_turn(order, wishes):
        if wanted.total() == policy.max_vms:
            break
        if memory.takes(one, wanted[one.snapshot_id] + 1):
            wanted[one.snapshot_id] += 1
        else:
            short = True
    first = next((one for one in order if wishes[one.snapshot_id] or one.idle), None)
    while first is not None and wanted.total() < policy.min_vms:
        if not memory.takes(first, wanted[first.snapshot_id] + 1):
            short = True
            break
        wanted[first.snapshot_id] += 1
    in_order = (one.snapshot_id for one in order if wanted[one.snapshot_id])
    return PoolSize({snapshot_id: wanted[snapshot_id] for snapshot_id in in_order}, short)


def _asked(one: Poolable, since: float) -> float:
    """How much it is in demand."""
    boots = len(one.boots) - bisect_right(one.boots, since)
    return boots * (KEPT_COUNTS if one.pooled else 1.0)


def _in_turn(order: Sequence[Poolable], wishes: Mapping[UUID, int]) -> Iterator[Poolable]:
    """One of each, then another one of each that wishes for it, and so on."""
    for number in range(1, max(wishes.values(), default=0) + 1):
        yield from (one for one in order if wishes[one.snapshot_id] >= number)


class _Memory:
    """What the pool may take: a share of what would be free without it, and never so much that the
    next boot, which goes first, would find too little. One that is there may take more of it."""

    def __init__(
        self, found: Collection[Poolable], policy: PoolPolicy, free_mib: int, may_grow: bool
    ) -> None:
        self._all_mib = free_mib + sum(one.pooled * one.each_mib for one in found)
        self._share = policy.memory_share
        self._may_grow = may_grow
        self._taken_mib = 0

    def takes(self, one: Poolable, number: int) -> bool:
        """Whether there is room for the ``number``th VM of ``one``; it has it then."""
        kept = number <= one.pooled
        if not kept and not self._may_grow:
            return False
        share, spared = (KEPT_COUNTS, 1.0) if kept else (1.0, KEPT_COUNTS)
        taken_mib = self._taken_mib + one.each_mib
        if taken_mib > min(1.0, self._share * share) * self._all_mib:
            return False
        if self._all_mib - taken_mib < one.memory_mib * spared:
            return False
        self._taken_mib = taken_mib
        return True
