"""Where an answer of dockerd ends, however it is cut up; and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.engine_socket.guest.answers import (
    LAST_CHUNK,
    AnswerHead,
    BadAnswer,
    Body,
    ChunkedBody,
    EndlessBody,
    SizedBody,
    body_of,
    chunk,
)


def head(*lines: str, status: str = "200 OK") -> AnswerHead:
    return AnswerHead.parse(
        "".join(f"{x}\r\n" for x in (f"HTTP/1.1 {status}", *lines, "")).encode()
    )


def followed(body: Body, data: bytes, cuts: list[int]) -> tuple[int, bytes]:
    """How much of ``data``, which comes cut up, is the body's; and its content."""
    at, turn, content = 0, 0, list[bytes]()
    while at < len(data) and not body.ended:
        piece = data[at : at + cuts[turn % len(cuts)]]
        at, turn = at + body.follow(piece, content), turn + 1
    return at, b"".join(content)


CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@given(
    st.lists(st.binary(min_size=1, max_size=100), max_size=5),
    st.sampled_from([b"", b"Sum: 1\r\n", b"A: 1\r\nB: 2\r\n"]),
    st.binary(max_size=20),
    CUTS,
)
def test_chunks_are_followed_to_their_end(
    parts: list[bytes], trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    framed = b"".join(map(chunk, parts)) + LAST_CHUNK[:3] + trailers + b"\r\n"
    body = body_of(head("Transfer-Encoding: chunked"), b"GET")
    assert followed(body, framed + after, cuts) == (len(framed), b"".join(parts))
    assert body.ended


@given(st.binary(max_size=100), st.binary(max_size=20), CUTS)
def test_a_body_is_as_long_as_was_said(content: bytes, after: bytes, cuts: list[int]) -> None:
    body = body_of(head(f"content-length: {len(content)}"), b"GET")
    assert followed(body, content + after, cuts) == (len(content), content)
    assert body.ended


@pytest.mark.parametrize(
    ("method", "status", "line"),
    [
        (b"HEAD", "200 OK", "Content-Length: 5"),
        (b"HEAD", "200 OK", "Transfer-Encoding: chunked"),
        (b"POST", "204 No Content", "X: y"),
        (b"GET", "304 Not Modified", "Content-Length: 5"),
    ],
)
def test_some_answers_have_no_body(method: bytes, status: str, line: str) -> None:
    assert body_of(head(line, status=status), method).ended


def test_without_a_length_the_connections_end_is_the_answers() -> None:
    body = body_of(head(), b"GET")
    assert isinstance(body, EndlessBody)
    assert followed(body, b"all of it", [4]) == (9, b"all of it")
    assert not body.ended


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=3), st.data())
def test_last_words_are_said_between_chunks_only(parts: list[bytes], data: st.DataObject) -> None:
    framed = b"".join(map(chunk, parts))
    cut = data.draw(st.integers(0, len(framed)))
    body = ChunkedBody()
    content: list[bytes] = []
    body.follow(framed[:cut], content)
    words = body.words(b"broken")
    boundaries = {len(b"".join(map(chunk, parts[:count]))) for count in range(len(parts) + 1)}
    assert bool(words) == (cut in boundaries)
    if words:
        rest: list[bytes] = []
        again = ChunkedBody()
        assert again.follow(framed[:cut] + words, rest) == cut + len(words)
        assert again.ended
        assert b"".join(rest) == b"".join(content) + b"broken"


def test_a_body_of_a_size_has_no_room_for_words() -> None:
    assert SizedBody(3).words(b"broken") == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
    ],
)
def test_what_is_no_head_is_not_passed_on(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerHead.parse(raw)


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: -1"],
    ],
)
def test_whose_end_nobody_knows_is_not_passed_on(lines: list[str]) -> None:
    with pytest.raises(BadAnswer):
        body_of(head(*lines), b"GET")


@pytest.mark.parametrize(
    "data", [b"xyz\r\n", b"-1\r\n", b"1\r\nab\r\n", b"0" * 20_000, b"0\r\n" + b"A: b\r\n" * 5000]
)
def test_chunks_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        ChunkedBody().follow(data)


@pytest.mark.parametrize(
    ("first", "line", "kept"),
    [
        ("HTTP/1.1", "Connection: keep-alive", True),
        ("HTTP/1.1", "Connection: Close", False),
        ("HTTP/1.1", "connection: upgrade, close", False),
        ("HTTP/1.0", "Connection: keep-alive", False),
    ],
)
def test_whether_a_connection_is_kept(first: str, line: str, kept: bool) -> None:
    answer = AnswerHead.parse(f"{first} 200 OK\r\n{line}\r\n\r\n".encode())
    assert answer.keeps_alive is kept
