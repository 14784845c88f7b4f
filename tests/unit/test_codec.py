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

from warmboot.codec import CodecError, decode, encode
from warmboot.model.container import ContainerSpec, PortMapping
from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_image import FileSum, RuntimeImageManifest
from warmboot.model.runtime_snapshot import BootStats, HostRequirements, SnapshotManifest
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootPolicy, StageStep, StageTiming
from warmboot.model.vm import Disk, DiskFormat, Nic, VmHandle, VmSpec
from warmboot.store.storable import is_storable, plain, stored

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
    return decode(tp, encode(tp, value))


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
    assert decode(StageTiming, json.dumps(stored)) == StageTiming("identity", 0.1, 0.2, ())


def test_a_time_comes_back_with_its_zone() -> None:
    moment = datetime(2026, 1, 24, 13, tzinfo=timezone(timedelta(hours=1)))
    back = through_json(datetime, moment)
    assert (back, back.utcoffset()) == (moment, timedelta(hours=1))


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
    assert decode(ContainerSpec, json.dumps(SPEC)) == ContainerSpec("web", "redis:7")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"name": "web"}, "ContainerSpec.image: Field required"),
        ({**SPEC, "colour": "red"}, "ContainerSpec.colour: Unexpected keyword argument"),
        ({**SPEC, "tty": 1}, ".tty: Input should be a valid boolean, found int"),
        ({**SPEC, "name": None}, ".name: Input should be a valid string, found NoneType"),
        ({**SPEC, "boot": "hot"}, ".boot: Input should be 'auto' or 'cold', found 'hot'"),
        ({**SPEC, "boot": []}, ".boot: Input should be 'auto' or 'cold', found []"),
        ({**SPEC, "runtime_image_id": "7"}, ".runtime_image_id: Input should be a valid UUID"),
        ({**SPEC, "environment": {"A": 1}}, ".environment.A: Input should be a valid string"),
        (
            {**SPEC, "ports": [{"container_port": 1}, {"container_port": "80"}]},
            ".ports[1].container_port: Input should be a valid integer, found str",
        ),
        ({**SPEC, "ports": {}}, ".ports: Input should be a valid array, found dict"),
        ({**SPEC, "shape": {"vcpus": 0, "memory_mib": 512}}, "ContainerSpec: 0 vCPUs are not"),
        ([], "ContainerSpec: Input should be an object, found list"),
        (None, "ContainerSpec: Input should be an object, found NoneType"),
    ],
)
def test_damage_is_refused_saying_where(data: object, problem: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(ContainerSpec, json.dumps(data))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (ContainerSpec, ContainerSpec("web", 7)),  # type: ignore[arg-type]
        (ContainerSpec, ContainerSpec("web", "x", command=["ls"])),  # type: ignore[arg-type]
        (ContainerSpec, Shape(1, 512)),
        (StageTiming, StageTiming("x", float("nan"), 0.0)),
        (Path, "/srv"),
        (Mapping[str, int], {"a": "b"}),
        (Mapping[str, Any], []),
    ],
)
def test_a_value_of_another_type_is_refused(tp: Any, value: object) -> None:
    with pytest.raises(CodecError):
        encode(tp, value)


@pytest.mark.parametrize("bad", ["\0", "a\ud800b"])
def test_text_that_no_database_can_hold_is_refused(bad: str) -> None:
    for spec in (
        ContainerSpec("web", bad),
        ContainerSpec("web", "x", labels={bad: "x"}),
        ContainerSpec("web", "x", command=("ls", bad)),
        ContainerSpec("web", "x", ports=(PortMapping(80, host_ip=bad),)),
    ):
        with pytest.raises(InvalidRequest):
            stored(ContainerSpec, spec)


def test_text_that_only_looks_like_an_escape_is_stored() -> None:
    spec = ContainerSpec("web", r"\u0000")
    assert decode(ContainerSpec, stored(ContainerSpec, spec)) == spec


def test_what_earlier_versions_wrote_is_read() -> None:
    """Python's own JSON: spaces, ASCII only, times with an offset."""
    values = {
        ContainerSpec: ('{"name": "w", "image": "caf\\u00e9"}', ContainerSpec("w", "café")),
        datetime: ('"2026-01-24T12:00:00+00:00"', datetime(2026, 1, 24, 12, tzinfo=UTC)),
        BootStats: ('{"count": 1, "total_s": 1, "recent_s": [1]}', BootStats(1, 1.0, (1.0,))),
    }
    for tp, (text, value) in values.items():
        assert decode(tp, text) == value


def test_a_vm_record_s_parts_are_covered() -> None:
    vm = a_vm()
    assert through_json(VmSpec, vm.spec) == vm.spec
    assert through_json(VmHandle, vm.handle) == vm.handle


def test_unknown_keys_can_be_left_out_at_every_depth() -> None:
    newer = {**SPEC, "colour": "red", "shape": {"vcpus": 1, "memory_mib": 512, "gpus": 1}}
    spec = decode(ContainerSpec, json.dumps(newer), unknown="ignore")
    assert spec == ContainerSpec("web", "redis:7", shape=Shape(1, 512))
    with pytest.raises(CodecError, match=r"ContainerSpec.shape.gpus"):
        decode(ContainerSpec, json.dumps(newer))
