"""Request models: strict, without unknown fields, and with a limit on every field."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    model_validator,
)

from warmboot.model.conventions.image_references import IMAGE_PATTERN, MAX_LENGTH, is_reference
from warmboot.model.conventions.names import MAX_NAME_LENGTH, check_name
from warmboot.model.conventions.program_start import MAX_WORD_BYTES
from warmboot.model.conventions.signals import SIGNAL_PATTERN, signal_name
from warmboot.model.errors import InvalidName
from warmboot.model.runtime_snapshot import MAX_WEIGHT
from warmboot.model.shapes import MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB, Shape
from warmboot.model.tenants.boot import MAX_FORKS

T = TypeVar("T")

# The patterns repeat what the validators check, so that the schema says it too.
NAME_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9_-]*(\.[a-zA-Z0-9_-]+)*\.?$"
ENV_NAME_PATTERN = r"^[^=\x00]+$"
MAX_UID = 2**32 - 2
NO_NUL_PATTERN = r"^[^\x00]*$"
# Not \s: what it means is another thing in each dialect of regular expressions.
_WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LABEL_PATTERN = rf"^[^={_WHITE_SPACE}\x00]+$"
HOST_NAME_PATTERN = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"
ABSOLUTE_PATTERN = r"^/[^\x00]*$"
WORKING_DIR_PATTERN = r"^(/[^\x00]*)?$"
ARCHIVE_PATTERN = r"^[0-9a-f]{64}$"
CURSOR_PATTERN = r"^[0-9]{1,16}-[0-9a-f]{32}$"
"""Whatever is of this form is a position, so that no cursor is refused that the schema allows."""
EVENT_CURSOR_PATTERN = r"^[0-9]{1,18}$"
WORD_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"
MAX_STOP_TIMEOUT_S = 3600
MAX_WORDS = 100_000
"""Of a command or an environment; how large they may be together, ``program_start`` says."""


def _checked_name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        raise ValueError(f"{error.brief}: {error.details or error.resolution}") from error


def _checked_image(reference: str) -> str:
    if not is_reference(reference):
        raise ValueError(
            "not an image reference; one looks like redis:7 or registry:5000/team/app@sha256:…, "
            "the name in lower case and of at most 255 characters"
        )
    return reference


Name = Annotated[
    str,
    # The validators say it in words; the schema has the pattern.
    Field(min_length=1, max_length=MAX_NAME_LENGTH, json_schema_extra={"pattern": NAME_PATTERN}),
    AfterValidator(_checked_name),
]
Text = Annotated[str, Field(max_length=MAX_WORD_BYTES, pattern=NO_NUL_PATTERN)]
ImageReference = Annotated[
    str,
    Field(min_length=1, max_length=MAX_LENGTH, json_schema_extra={"pattern": IMAGE_PATTERN}),
    AfterValidator(_checked_image),
]
# A name and a value of one character, with the "=", are the least that the other has beside it.
EnvName = Annotated[
    str, Field(min_length=1, max_length=MAX_WORD_BYTES - 1, pattern=ENV_NAME_PATTERN)
]
EnvValue = Annotated[str, Field(max_length=MAX_WORD_BYTES - 2, pattern=NO_NUL_PATTERN)]
Environment = Annotated[
    dict[EnvName, EnvValue | None],
    Field(
        max_length=MAX_WORDS,
        default_factory=dict,
        description="null takes a variable of the image's away; a name and its value have at most "
        f"{MAX_WORD_BYTES - 1:,} bytes together, as Linux has it",
        json_schema_extra={
            "additionalProperties": False,
            "propertyNames": {"maxLength": MAX_WORD_BYTES - 1},
        },
    ),
]
UserName = Annotated[str, Field(max_length=256, pattern=NO_NUL_PATTERN)]
HostName = Annotated[
    str,
    Field(
        pattern=HOST_NAME_PATTERN,
        description="a host name label in lower case; left out: the container's name",
    ),
]
Signal = Annotated[
    str,
    Field(max_length=16, json_schema_extra={"pattern": SIGNAL_PATTERN}),
    AfterValidator(signal_name),
]
LabelName = Annotated[str, Field(min_length=1, max_length=256, pattern=LABEL_PATTERN)]
LabelValue = Annotated[str, Field(max_length=4096, pattern=NO_NUL_PATTERN)]
Words = Annotated[list[Text], Field(max_length=MAX_WORDS)]
# A key that fits no pattern is refused, and one that is too long.
KEYS: dict[str, Any] = {"additionalProperties": False, "propertyNames": {"maxLength": 256}}
HostPath = Annotated[str, Field(min_length=1, max_length=4095, pattern=ABSOLUTE_PATTERN)]


def _whole(value: Any) -> Any:
    """To JSON 2.0 is a whole number as 2 is, and some languages write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


OR_WHOLE = BeforeValidator(_whole)
"""The last of a whole number's rules: what follows it is not in the schema."""

MAX_PERIOD_S = 366 * 86_400.0
IdleTime = Annotated[
    StrictFloat | None,
    Field(
        ge=1,
        le=MAX_PERIOD_S,
        allow_inf_nan=False,
        description="park it when nobody has used it for so many seconds: it has taken next to no "
        "processor time, and nobody has asked anything of it, or been connected to its published "
        "ports; null for never",
    ),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def to(self, tp: type[T], **instead: Any) -> T:
        """The model's ``tp`` of these fields, but for those that are given ``instead``."""
        made: T = _adapter(cast("Any", tp)).validate_python({**self.model_dump(), **instead})
        return made


@cache
def _adapter(tp: Any) -> TypeAdapter[Any]:
    return TypeAdapter(tp)


class ShapeIn(Strict):
    """vCPUs and memory of the VM."""

    vcpus: Annotated[StrictInt, Field(ge=1, le=MAX_VCPUS), OR_WHOLE]
    memory_mib: Annotated[
        StrictInt, Field(ge=MIN_MEMORY_MIB, le=MAX_MEMORY_MIB, multiple_of=2), OR_WHOLE
    ]

    def to_model(self) -> Shape:
        return Shape(self.vcpus, self.memory_mib)


class RuntimeImageIn(Strict):
    """An image folder on the server (``path``), or bare files (``kernel`` and ``rootfs``)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["path"],
                    "properties": {
                        "path": {"type": "string"},
                        **{name: {"type": "null"} for name in ("kernel", "rootfs", "initrd")},
                    },
                },
                {
                    "required": ["kernel", "rootfs"],
                    "properties": {
                        "path": {"type": "null"},
                        **{name: {"type": "string"} for name in ("kernel", "rootfs")},
                    },
                },
            ]
        },
    )

    name: Name
    path: HostPath | None = None
    kernel: HostPath | None = None
    rootfs: HostPath | None = None
    initrd: HostPath | None = None
    build_snapshot: Annotated[
        StrictBool | None,
        Field(description="begin its snapshot, too; left out: as MANAGER_AUTO_SNAPSHOT has it"),
    ] = None

    @model_validator(mode="after")
    def _folder_or_files(self) -> Self:
        bare = (self.kernel, self.rootfs, self.initrd)
        if self.path is not None and any(bare):
            raise ValueError("give either path, or kernel and rootfs")
        if self.path is None and not (self.kernel and self.rootfs):
            raise ValueError("give path, or both kernel and rootfs")
        return self

    def paths(self) -> dict[str, Path | None]:
        """As the keyword arguments of ``RuntimeImages.register``."""
        given = {
            "path": self.path,
            "kernel": self.kernel,
            "rootfs": self.rootfs,
            "initrd": self.initrd,
        }
        return {key: Path(value) if value else None for key, value in given.items()}


class RuntimeSnapshotIn(Strict):
    """One of a runtime image, or, with ``image``, one with an image of a registry in it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {
                    "required": [name],
                    "properties": {name: {"type": "string"}},
                }
                for name in ("runtime_image_id", "image")
            ]
        },
    )

    runtime_image_id: UUID | None = None
    shape: ShapeIn | None = None
    image: ImageReference | None = None

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        if self.runtime_image_id is None and self.image is None:
            raise ValueError("give runtime_image_id, image, or both")
        return self


Weight = Annotated[StrictFloat, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)]


class RuntimeSnapshotChange(Strict):
    """What can be changed about a snapshot. At least one of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"required": ["weight"], "properties": {"weight": {"type": "number"}}},
                {"required": ["pinned"], "properties": {"pinned": {"type": "boolean"}}},
            ]
        },
    )

    weight: Annotated[
        Weight | None,
        Field(
            description="how often it is chosen among the versions of its shape, in proportion to "
            "theirs; 0: only when no other is left",
        ),
    ] = None
    pinned: Annotated[StrictBool | None, Field(description="a pinned one is never collected")] = (
        None
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.weight is None and self.pinned is None:
            raise ValueError("give weight, pinned, or both")
        return self


EnvAssignment = Annotated[str, Field(max_length=MAX_WORD_BYTES, pattern=r"^[^=\x00]+(=[^\x00]*)?$")]


class ResizeIn(Strict):
    """The terminal's size, in characters."""

    type: Literal["resize"] = "resize"
    rows: Annotated[StrictInt, Field(ge=1, le=10_000), OR_WHOLE]
    columns: Annotated[StrictInt, Field(ge=1, le=10_000), OR_WHOLE]


class StartIn(Strict):
    """The first frame of an exec session."""

    type: Literal["start"]
    command: Annotated[list[Text], Field(min_length=1, max_length=MAX_WORDS)]
    tty: StrictBool = False
    stdin: StrictBool = False
    detach: StrictBool = False
    environment: Annotated[
        list[EnvAssignment],
        Field(max_length=MAX_WORDS, description="NAME=value; NAME alone takes it away"),
    ] = []
    user: UserName = ""
    working_dir: Annotated[str, Field(max_length=4095, pattern=WORKING_DIR_PATTERN)] = ""
    rows: Annotated[StrictInt, Field(ge=1, le=10_000), OR_WHOLE] | None = None
    columns: Annotated[StrictInt, Field(ge=1, le=10_000), OR_WHOLE] | None = None


class ForkIn(Strict):
    """How many are to go on from one; ``MANAGER_MAX_FORKS`` bounds it, too."""

    count: Annotated[StrictInt, Field(ge=1, le=MAX_FORKS, description="how many"), OR_WHOLE] = 1
    writable_folders: Annotated[
        StrictBool,
        Field(
            description="they may write to the folders of the host to which their source may; what "
            "was frozen in them goes on writing there, too"
        ),
    ] = False
