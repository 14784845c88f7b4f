"""An archive's manifest: written and read back; anything else is refused in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.criu.archives.manifests import manifest_json, parse_manifest
from warmboot.model.checkpoint import ArchiveManifest, Versions
from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_image import FileSum

MANIFEST = ArchiveManifest(
    name="cp",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    image="app:1",
    image_digest="sha256:" + "0" * 64,
    versions=Versions("27.5.1", "4.2.1", "6.18.44", "x86_64"),
    network="host",
    processes=2,
    tcp_connections=1,
    mounts=("/data",),
    files={"checkpoint/a.img": FileSum(3, "f" * 64)},
)


def test_what_was_written_is_read_back() -> None:
    assert parse_manifest(manifest_json(MANIFEST)) == MANIFEST


def _set(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("format", value=float("inf")),
        _set("format", value=float("nan")),
        _set("format", value="1"),
        _set("processes", value=-1),
        _set("processes", value=True),
        _set("files", "checkpoint/a.img", "size_bytes", value=1e400),
        _set("files", "checkpoint/a.img", "size_bytes", value=1 << 70),
        _set("files", "checkpoint/\ud800.img", value={"size_bytes": 1, "sha256": "0"}),
        _set("files", value=[]),
        _set("image", value="app\udfff"),
        _set("image", value=["app:1"]),
        _set("mounts", value=[1]),
        _set("mounts", value=["/d\udc00"]),
        _set("versions", value="4.2.1"),
        _set("versions", "criu", value=None),
        _set("created_at", value=12),
        _set("created_at", value="yesterday"),
    ],
)
def test_what_nobody_wrote_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(manifest_json(MANIFEST))
    change(found)
    with pytest.raises(InvalidRequest) as caught:
        parse_manifest(json.dumps(found).encode())
    str(caught.value).encode()
    assert caught.value.resolution


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(json.loads(manifest_json(MANIFEST)))), value=VALUES)
def test_whatever_stands_there_is_read_or_refused(key: str, value: object) -> None:
    found = {**json.loads(manifest_json(MANIFEST)), key: value}
    try:
        parse_manifest(json.dumps(found).encode())
    except InvalidRequest as refused:
        str(refused).encode()


@given(st.binary(max_size=200))
def test_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_manifest(text)
