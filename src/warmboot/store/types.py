"""Column types: how the model's values are stored in SQLite and PostgreSQL.

    model            PostgreSQL      SQLite
    datetime (UTC)   TIMESTAMPTZ     DATETIME (text, UTC, sorts as it reads)
    UUID             UUID            CHAR(32)
    enum, str, Path  TEXT            TEXT
    dataclass & co.  JSONB           JSON

A value that cannot be read back is a damaged row, or one that a newer program wrote:
``Unavailable``, saying which.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import JSON, DateTime, Dialect, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from warmboot.codec import CodecError, adapter, decode
from warmboot.model.errors import Unavailable
from warmboot.store.storable import check_text, stored

E = TypeVar("E", bound=StrEnum)


def _as_it_is(text: Any) -> Any:
    return text


JSON_AS_TEXT: dict[str, Any] = {"json_serializer": _as_it_is, "json_deserializer": _as_it_is}
"""What an engine must be given for ``Encoded``: JSON goes through it, and its driver, as text."""


def unreadable(problem: str) -> Unavailable:
    return Unavailable(
        "the database contains a value that cannot be read",
        details=problem,
        resolution="run the version of warmboot that wrote it, or restore a backup",
    )


class UtcDateTime(TypeDecorator[datetime]):
    """A time: stored with any time zone, read in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Text that both databases can hold; ``InvalidRequest`` for any other."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else check_text(value)


class Choice(TypeDecorator[E]):
    """A ``StrEnum``, stored as its value."""

    impl = Text
    cache_ok = True

    def __init__(self, choices: type[E]) -> None:
        super().__init__()
        self.choices = choices

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:
        return None if value is None else self.choices(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        if value is None:
            return None
        try:
            return self.choices(value)
        except ValueError as exc:
            raise unreadable(str(exc)) from exc


class PathText(TypeDecorator[Path]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Path | None, dialect: Dialect) -> str | None:
        return None if value is None else check_text(str(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Path | None:
        return None if value is None else Path(value)


class Encoded(TypeDecorator[Any]):
    """A value of type ``tp`` as JSON. ``None`` is SQL's ``NULL``.

    It makes and takes the JSON text itself: see ``JSON_AS_TEXT``.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, tp: Any) -> None:
        super().__init__(none_as_null=True)
        self.tp = tp
        adapter(tp)  # now, and not within the first boot

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else stored(self.tp, value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        try:
            return decode(self.tp, value)
        except CodecError as exc:
            raise unreadable(str(exc)) from exc
