"""Output that comes in small pieces is passed on in fewer: the same bytes, in the same order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from warmboot.docker.batches import MOST_BYTES, joined

PIECES = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.binary(max_size=9) | st.just(bytes(30_000)))
)


@given(pieces=PIECES)
def test_batches_are_the_same_bytes_of_the_same_streams(pieces: list[tuple[int, bytes]]) -> None:
    def each_byte(of: list[tuple[int, bytes]]) -> list[tuple[int, int]]:
        return [(stream, byte) for stream, data in of for byte in data]

    assert each_byte(list(joined(pieces))) == each_byte(pieces)


@given(pieces=PIECES)
def test_neighbours_of_one_stream_are_one_batch_up_to_a_size(
    pieces: list[tuple[int, bytes]],
) -> None:
    batches = list(joined(pieces))
    assert all(len(data) <= MOST_BYTES for _, data in batches)
    for (one, data), (next_one, next_data) in pairwise(batches):
        assert one != next_one or len(data) + len(next_data) > MOST_BYTES - 30_000


def test_ten_thousand_lines_are_a_few_batches() -> None:
    lines = [(1, b"%d\n" % number) for number in range(10_000)]
    batches = list(joined(lines))
    assert len(batches) == 1
    assert batches[0][1] == b"".join(data for _, data in lines)
