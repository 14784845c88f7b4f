"""The codec: everything the model can say comes back as it was, and damage is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.things import a_vm

from warmboot.model.container import (
    BootPolicy,
    ContainerSpec,
    PortMapping,
    StageStep,
    StageTiming,
)
from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_image import FileSum, RuntimeImageManifest
from warmboot.model.runtime_snapshot import HostRequirements, SnapshotManifest
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, DiskFormat, Nic, VmHandle, VmSpec
from warmboot.store.codec import CodecError, decode, encode, is_storable, plain

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PATHS = TEXT.map(lambda text: Path("/") / text.replace("/", "_"))
SHAPES = st.builds(Shape, st.integers(1, 32), st.integers(128, 32_768).map(lambda n: n * 2))
MAPPINGS = st.dictionaries(TEXT, TEXT)
TUPLES = st.lists(TEXT).map(tuple)
PORTS = st.builds(PortMapping, st.integers(1, 65_535), st.integers(0, 65_535), TEXT, TEXT)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(timezones=st.just(UTC))

SPECS = st.builds(
    ContainerSpec,
    name=TEXT,
    image=TEXT,
    command=st.none() | TUPLES,
    entrypoint=st.none() | TUPLES,
    environment=MAPPINGS,
    ports=st.lists(PORTS).map(tuple),
    shape=st.none() | SHAPES,
    boot=st.sampled_from(BootPolicy),
    runtime_image_id=st.none() | st.uuids(),
    archive=st.none() | TEXT,
    tty=st.booleans(),
    labels=MAPPINGS,
)
DISKS = st.builds(Disk, PATHS, st.booleans(), st.sampled_from(DiskFormat))
VM_SPECS = st.builds(
    VmSpec,
    id=TEXT,
    run_dir=PATHS,
    shape=SHAPES,
    kernel=PATHS,
    initrd=st.none() | PATHS,
    cmdline=TEXT,
    disks=st.lists(DISKS).map(tuple),
    nic=st.none() | st.builds(Nic, PATHS, TEXT, TEXT, TEXT),
    template_dir=st.none() | PATHS,
    uid=st.integers(0, 2**32),
)
SUMS = st.dictionaries(TEXT, st.builds(FileSum, st.integers(0, 2**62), TEXT))
VALUES = st.one_of(
    SPECS,
    VM_SPECS,
    st.builds(VmHandle, TEXT, TEXT, st.integers(), st.integers(), TEXT, PATHS),
    st.builds(StageTiming, TEXT, FLOATS, FLOATS, st.just((StageStep("clock", 0.1),))),
    st.builds(RuntimeImageManifest, TEXT, SUMS, TEXT, TEXT, MAPPINGS),
    st.builds(
        SnapshotManifest,
        st.uuids(),
        TEXT,
        TEXT,
        SHAPES,
        st.builds(HostRequirements, TEXT, TEXT, TEXT, TEXT, TEXT),
        SUMS,
        TIMES,
        TEXT,
    ),
)


def through_json(tp: Any, value: Any) -> Any:
    return decode(tp, json.loads(json.dumps(encode(tp, value), allow_nan=False)))


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: object) -> None:
    back = through_json(type(value), value)
    assert back == value
    assert type(back) is type(value)


@given(st.lists(st.builds(StageTiming, TEXT, FLOATS, FLOATS)).map(tuple))
def test_tuples_stay_tuples(stages: tuple[StageTiming, ...]) -> None:
    assert through_json(tuple[StageTiming, ...], stages) == stages


def test_stages_that_were_stored_before_they_had_steps_are_read() -> None:
    stored = {"name": "identity", "started_s": 0.1, "duration_s": 0.2}
    assert decode(StageTiming, stored) == StageTiming("identity", 0.1, 0.2, ())


def test_a_time_comes_back_in_utc() -> None:
    moment = datetime(2026, 1, 24, 13, tzinfo=timezone(timedelta(hours=1)))
    back = through_json(datetime, moment)
    assert (back, back.tzinfo) == (moment, UTC)


JSON_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def texts_in(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, item in data.items():
            yield key
            yield from texts_in(item)
    elif isinstance(data, list):
        for item in data:
            yield from texts_in(item)


@given(st.dictionaries(st.text(), JSON_DATA))
def test_free_form_data_is_always_storable(data: dict[str, Any]) -> None:
    stored = plain(data)
    json.dumps(stored, allow_nan=False)
    assert all(is_storable(text) for text in texts_in(stored))
    if all(is_storable(text) for text in texts_in(data)):
        assert stored == data


def test_free_form_data_takes_what_reports_hold() -> None:
    class Colour(StrEnum):
        RED = "red"

    data = {
        "id": UUID(int=1),
        "path": Path("/srv"),
        "colour": Colour.RED,
        "seen": (1, 2.5, float("nan"), None, True),
        7: {"nested": {"x"}},
        "tail": "a\0b\ud800",
    }
    assert plain(data) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "path": "/srv",
        "colour": "red",
        "seen": [1, 2.5, "nan", None, True],
        "7": {"nested": ["x"]},
        "tail": "a\ufffdb?",
    }


SPEC = {"name": "web", "image": "redis:7"}


def test_a_field_with_a_default_may_be_missing() -> None:
    assert decode(ContainerSpec, SPEC) == ContainerSpec("web", "redis:7")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"name": "web"}, "ContainerSpec lacks image"),
        ({**SPEC, "colour": "red"}, "ContainerSpec has no colour"),
        ({**SPEC, "tty": 1}, ".tty: expected bool, found int"),
        ({**SPEC, "name": None}, ".name: expected str, found NoneType"),
        ({**SPEC, "boot": "hot"}, ".boot: 'hot' is no BootPolicy"),
        ({**SPEC, "boot": []}, "is no BootPolicy"),
        ({**SPEC, "runtime_image_id": "7"}, ".runtime_image_id: '7' is no UUID"),
        ({**SPEC, "environment": {"A": 1}}, ".environment['A']: expected str, found int"),
        (
            {**SPEC, "ports": [{"container_port": 1}, {"container_port": "80"}]},
            ".ports[1].container_port: expected int, found str",
        ),
        ({**SPEC, "ports": {}}, ".ports: expected list, found dict"),
        ({**SPEC, "shape": {"vcpus": 0, "memory_mib": 512}}, ".shape: 0 vCPUs cannot be had"),
        ([], "expected dict, found list"),
        (None, "expected dict, found NoneType"),
    ],
)
def test_damage_is_refused_saying_where(data: object, problem: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(ContainerSpec, data)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (ContainerSpec, ContainerSpec("web", 7)),  # type: ignore[arg-type]
        (ContainerSpec, ContainerSpec("web", "x", command=["ls"])),  # type: ignore[arg-type]
        (ContainerSpec, Shape(1, 512)),
        (StageTiming, StageTiming("x", float("nan"), 0.0)),
        (datetime, datetime(2026, 1, 1)),
        (Path, "/srv"),
        (Mapping[str, int], {"a": True}),
        (Mapping[str, Any], []),
    ],
)
def test_a_value_of_another_type_is_refused(tp: Any, value: object) -> None:
    with pytest.raises(CodecError):
        encode(tp, value)


def test_text_that_no_database_can_hold_is_refused() -> None:
    for bad in ("\0", "a\ud800b"):
        with pytest.raises(InvalidRequest):
            encode(ContainerSpec, ContainerSpec("web", bad))
        with pytest.raises(InvalidRequest):
            encode(ContainerSpec, ContainerSpec("web", "x", labels={bad: "x"}))


def test_a_type_without_a_coder_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="has no coder"):
        encode(complex, 1j)


def test_a_vm_record_s_parts_are_covered() -> None:
    vm = a_vm()
    assert through_json(VmSpec, vm.spec) == vm.spec
    assert through_json(VmHandle, vm.handle) == vm.handle
