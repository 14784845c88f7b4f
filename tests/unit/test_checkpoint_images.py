"""CRIU's images and strangers' tars: whatever the bytes are, the answer is a clear error."""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.criu.archives.layer_tar import entries
from warmboot.criu.archives.plain_tar import members
from warmboot.criu.images import COMMON_MAGIC, INVENTORY_MAGIC, decode, read_dump
from warmboot.model.errors import CheckpointError, InvalidRequest

SECRET = bytes(range(16))
STACK, HEAP, ARGUMENTS, RANDOM_AT = 0x7FFE_0000_2000, 0x5000, 0x7FFE_0000_2100, 0x7FFE_0000_0010


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def message(*fields: tuple[int, int]) -> bytes:
    return b"".join(varint(field << 3) + varint(value) for field, value in fields)


def image(*messages: bytes, magic: int = COMMON_MAGIC) -> bytes:
    head = struct.pack("<I", magic) + (b"TYPE" if magic == COMMON_MAGIC else b"")
    return head + b"".join(struct.pack("<I", len(one)) + one for one in messages)


def write_dump(folder: Path) -> None:
    """One process with two runs of pages, the second of which has the secret."""
    pages = b"\xaa" * 8192 + bytes(16) + SECRET + bytes(4096 - 32)
    parts = {
        "inventory.img": image(message((1, 2)), magic=INVENTORY_MAGIC),
        "pstree.img": image(message((1, 1), (2, 0))),
        "core-1.img": image(message((1, 1))),
        "mm-1.img": image(
            message(
                (5, STACK),
                (6, HEAP),
                (8, ARGUMENTS),
                (13, 6),
                (13, 4096),
                (13, 25),
                (13, RANDOM_AT),
            )
        ),
        "pagemap-1.img": image(
            message((1, 7)),
            message((1, 0x400000), (2, 2), (4, 4)),
            message((1, RANDOM_AT & ~0xFFF), (2, 0), (4, 4), (5, 1)),
        ),
        "pages-7.img": pages,
        "tcp-stream-1.img": b"",
    }
    for name, content in parts.items():
        (folder / name).write_bytes(content)


def test_a_dump_is_read(tmp_path: Path) -> None:
    write_dump(tmp_path)
    dump = read_dump(tmp_path)
    assert dump.root.layout == (STACK, HEAP, ARGUMENTS)
    assert dump.tcp_connections == 1
    assert dump.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_secret_is_found_behind_other_pages(tmp_path: Path) -> None:
    write_dump(tmp_path)
    data = (tmp_path / "pages-7.img").read_bytes()
    assert read_dump(tmp_path).root.secret == data[8192 + 16 : 8192 + 32] == SECRET


def test_a_page_that_is_not_in_the_dump_gives_no_secret(tmp_path: Path) -> None:
    write_dump(tmp_path)
    in_parent = message((1, RANDOM_AT & ~0xFFF), (2, 1), (4, 1))
    (tmp_path / "pagemap-1.img").write_bytes(image(message((1, 7)), in_parent))
    assert read_dump(tmp_path).root.secret is None


def test_a_zombie_has_no_memory(tmp_path: Path) -> None:
    write_dump(tmp_path)
    (tmp_path / "pstree.img").write_bytes(image(message((1, 1)), message((1, 9), (2, 1))))
    (tmp_path / "core-9.img").write_bytes(image(message((1, 1))))
    assert read_dump(tmp_path).processes[1].layout is None


@pytest.mark.parametrize(
    "name",
    ["inventory.img", "pstree.img", "core-1.img", "mm-1.img", "pagemap-1.img", "pages-7.img"],
)
def test_a_missing_file_makes_it_incomplete(tmp_path: Path, name: str) -> None:
    write_dump(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        read_dump(tmp_path)


@pytest.mark.parametrize("name", ["inventory.img", "pstree.img", "core-1.img", "pagemap-1.img"])
def test_a_file_cut_to_nothing_makes_it_damaged(tmp_path: Path, name: str) -> None:
    write_dump(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        read_dump(tmp_path)


@given(st.sampled_from(["pstree.img", "mm-1.img", "pagemap-1.img"]), st.binary(max_size=200))
def test_no_content_of_an_image_does_worse_than_an_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_dump(Path(folder))
        (Path(folder) / name).write_bytes(image(content))
        try:
            read_dump(Path(folder))
        except CheckpointError as error:
            assert error.resolution


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2**64 - 1)), max_size=20))
def test_numbers_are_decoded_as_they_were_encoded(fields: list[tuple[int, int]]) -> None:
    found = decode(message(*fields))
    assert sorted((k, v) for k, values in found.items() for v in values) == sorted(fields)


@given(st.binary(max_size=4096))
def test_no_tar_does_worse_than_be_refused(content: bytes) -> None:
    for reading in (lambda s: list(members(s, 10)), lambda s: list(entries(s, 10))):
        try:
            reading(io.BytesIO(content))
        except InvalidRequest as error:
            assert error.resolution
