"""Which users the VMMs of a manager are."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from warmboot.host.network import uids
from warmboot.host.network.config import NetworkConfig
from warmboot.model.errors import NetworkError

NONE = Path("/nowhere")


def overlap(one: int, other: int) -> bool:
    return abs(one - other) < uids.SIZE


def test_a_manager_that_comes_back_gets_its_own_range(tmp_path: Path) -> None:
    first = uids.reserve("wb", tmp_path, NONE)
    uids.reserve("other", tmp_path, NONE)
    assert uids.reserve("wb", tmp_path, NONE) == first


def test_no_two_managers_of_a_host_share_a_user(tmp_path: Path) -> None:
    bases = [uids.reserve(f"p{number}", tmp_path, NONE) for number in range(300)]
    assert not any(overlap(*pair) for pair in itertools.combinations(bases, 2))
    assert max(bases) + uids.SIZE < 1 << 31


def test_managers_that_start_at_once_do_not_get_the_same_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managers = 16
    monkeypatch.setattr(uids, "COUNT", managers)  # so that they want the same ones
    together = threading.Barrier(managers)
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        bases: list[int] = []

        def start(number: int, folder: Path = folder, bases: list[int] = bases) -> None:
            together.wait()
            bases.append(uids.reserve(f"p{number}", folder, NONE))

        starting = [threading.Thread(target=start, args=(n,)) for n in range(managers)]
        for one in starting:
            one.start()
        for one in starting:
            one.join()
        assert len(set(bases)) == managers
        assert sorted(path.name for path in folder.iterdir()) == sorted(map(str, bases))


def test_one_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "COUNT", 2)
    for prefix in ("one", "two"):
        uids.reserve(prefix, tmp_path, NONE)
    with pytest.raises(NetworkError, match="taken"):
        uids.reserve("three", tmp_path, NONE)


def test_a_range_of_somebodys_subordinate_users_is_passed_over(tmp_path: Path) -> None:
    subordinate = tmp_path / "subuid"
    free = uids.reserve("wb", tmp_path / "one", NONE)
    subordinate.write_text(f"# nobody's\nuser:{free + 5}:10\n")
    assert not overlap(uids.reserve("wb", tmp_path / "two", subordinate), free)


def test_a_range_has_a_user_for_every_slot() -> None:
    largest = NetworkConfig(state_dir=NONE, subnet="10.0.0.0/8")
    assert largest.capacity < uids.SIZE
