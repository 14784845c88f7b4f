"""What the kernel tells of nftables is read as it is meant."""

from __future__ import annotations

import struct

from warmboot.host.network.rules.monitor import messages

NEWCHAIN, NEWGEN = 0x0A03, 0x0A0F


def message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = b"\x02\0\0\0"
    for number, value in attributes:
        padded = value + bytes(-len(value) % 4)
        body += struct.pack("=HH", 4 + len(value), number) + padded
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_chain_of_type_filter_is_not_in_a_table_of_that_name() -> None:
    ours = message(NEWCHAIN, (1, b"wb_net\0"), (3, b"guard\0"), (7, b"filter\0"))
    theirs = message(NEWCHAIN, (1, b"filter\0"), (3, b"FORWARD\0"))
    assert list(messages(ours + theirs)) == [(3, "wb_net"), (3, "filter")]


def test_what_names_no_table_is_read_over() -> None:
    end = message(NEWGEN, (2, b"\0\0\0\1"))
    assert list(messages(end + message(0x0101) + b"\0")) == [(15, "")]
