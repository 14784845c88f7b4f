"""Which users the VMMs of a manager are."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

from warmboot.host.network import uids
from warmboot.host.network.config import NetworkConfig

NONE = Path("/nowhere")


def overlap(one: int, other: int) -> bool:
    return abs(one - other) < uids.SIZE


def test_a_manager_that_comes_back_gets_its_own_range(tmp_path: Path) -> None:
    first = uids.claim("wb", tmp_path, NONE)
    uids.claim("other", tmp_path, NONE)
    assert uids.claim("wb", tmp_path, NONE) == first


def test_no_two_managers_of_a_host_share_a_user(tmp_path: Path) -> None:
    bases = [uids.claim(f"p{number}", tmp_path, NONE) for number in range(300)]
    assert not any(overlap(*pair) for pair in itertools.combinations(bases, 2))
    assert max(bases) + uids.SIZE < 1 << 31


def test_managers_that_start_at_once_do_not_get_the_same_range(tmp_path: Path) -> None:
    bases: list[int] = []
    starting = [
        threading.Thread(target=lambda n=n: bases.append(uids.claim(f"p{n}", tmp_path, NONE)))
        for n in range(16)
    ]
    for one in starting:
        one.start()
    for one in starting:
        one.join()
    assert len(set(bases)) == 16
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_range_of_somebodys_subordinate_users_is_passed_over(tmp_path: Path) -> None:
    subordinate = tmp_path / "subuid"
    free = uids.claim("wb", tmp_path / "one", NONE)
    subordinate.write_text(f"# nobody's\nuser:{free + 5}:10\n")
    assert not overlap(uids.claim("wb", tmp_path / "two", subordinate), free)


def test_a_range_has_a_user_for_every_slot() -> None:
    largest = NetworkConfig(state_dir=NONE, subnet="10.0.0.0/8")
    assert largest.capacity < uids.SIZE
