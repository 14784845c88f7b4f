"""What a page server does with every order of faults, removals and refusals of the kernel."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmboot.host.snapshots.memory_frames import pack
from warmboot.hypervisors.memory.frames import FRAME_BYTES, PAGE, Frames
from warmboot.hypervisors.memory.page_server import PageServer, Region, load_recorded
from warmboot.hypervisors.memory.userfault import Fault, MappingChanges, Removed
from warmboot.system.hashing import sum_file

BASE = 0x7F00_0000_0000
PAGES = 2 * FRAME_BYTES // PAGE
ODD = random.Random(5)
MEMORY = b"".join(
    ODD.randbytes(16) * 256 if ODD.random() < 0.6 else bytes(PAGE) for _ in range(PAGES)
)


class FakeKernel:
    """Fills pages in a dictionary, refuses what the kernel would, and sometimes does a part."""

    def __init__(self, seed: int) -> None:
        self.there: dict[int, bytes] = {}
        self.queue: list[Fault | Removed] = []
        self.given_back: set[int] = set()
        self._random = random.Random(seed)

    def events(self) -> list[Fault | Removed]:
        some, self.queue = self.queue[:2], self.queue[2:]
        for event in some:
            if isinstance(event, Removed):
                for address in range(event.start, event.end, PAGE):
                    self.there.pop(address, None)
                    self.given_back.add(address)
        return some

    def copy(self, target: int, content: bytes, start: int, length: int) -> int:
        return self._fill(target, content[start : start + length])

    def zero(self, target: int, length: int) -> int:
        return self._fill(target, bytes(length))

    def wake(self, start: int, length: int) -> None:
        assert start in self.there or self._changes(), "woken, it would fault again at once"

    def _changes(self) -> bool:
        return any(isinstance(event, Removed) for event in self.queue)

    def _fill(self, target: int, content: bytes) -> int:
        if self._changes():
            raise MappingChanges
        done = 0
        for at in range(0, len(content), PAGE):
            if target + at in self.there or (done and self._random.random() < 0.05):
                return done
            self.there[target + at] = content[at : at + PAGE]
            done += PAGE
            if self._random.random() < 0.01:  # somebody gives something back just now
                page = self._random.randrange(PAGES)
                self.queue.append(Removed(BASE + page * PAGE, BASE + (page + 1) * PAGE))
                return done
        return done


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    folder = tmp_path_factory.mktemp("frames")
    (folder / "plain").write_bytes(MEMORY)
    pack(folder / "plain", folder / "frames", sum_file(folder / "plain"), threading.Event())
    return Frames(folder / "frames")


pages = st.integers(0, PAGES - 1)
events = st.builds(lambda page: Fault(BASE + page * PAGE + 8), pages) | st.builds(
    lambda page, count: Removed(BASE + page * PAGE, BASE + min(PAGES, page + count) * PAGE),
    pages,
    st.integers(1, 300),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(events, max_size=12), st.integers(0, 2**32), st.booleans())
def test_a_page_is_its_own_or_zero_if_it_was_given_back(
    frames: Frames, happened: list[Fault | Removed], seed: int, ahead: bool
) -> None:
    kernel = FakeKernel(seed)
    server = PageServer(
        frames,
        kernel,
        [Region(BASE, FRAME_BYTES, 0), Region(BASE + FRAME_BYTES, FRAME_BYTES, FRAME_BYTES)],
    )
    if ahead:
        server.serve(1)
    for event in happened:
        kernel.queue.append(event)
        while kernel.queue:
            server.answer()
        if isinstance(event, Fault):
            address = event.address & -PAGE
            assert address in kernel.there or address in kernel.given_back
    for address, content in kernel.there.items():
        own = MEMORY[address - BASE : address - BASE + PAGE]
        assert content == (bytes(PAGE) if address in kernel.given_back else own)
    faulted = {(event.address - BASE) >> 20 for event in happened if isinstance(event, Fault)}
    assert set(server.touched) <= faulted


def test_an_address_that_is_not_the_guests_is_refused(frames: Frames) -> None:
    kernel = FakeKernel(0)
    server = PageServer(frames, kernel, [Region(BASE, 2 * FRAME_BYTES, 0)])
    kernel.queue.append(Fault(BASE - PAGE))
    with pytest.raises(ValueError, match="not the guest's"):
        server.answer()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[3, 1]", [3, 1]), ("[3, 9, -1]", [3]), ("", []), ("{}", []), ("[null]", []), ("7", [])],
)
def test_only_a_record_that_makes_sense_is_used(
    tmp_path: Path, text: str, expected: list[int]
) -> None:
    (tmp_path / "record").write_text(text)
    assert load_recorded(str(tmp_path / "record"), 5) == expected
    assert load_recorded(str(tmp_path / "nothing"), 5) == []
