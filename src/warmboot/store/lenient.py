"""Reads rows one by one, so that an unreadable row does not hide the others.

A row may be damaged, or written by a newer program. Where ``Rows`` reads, its columns do not raise:

    columns ──▶ row ──▶ Rows.one    the thing, or ``RowUnreadable``
                        Rows.all    all that can be read; what cannot is logged once, and left out
                        Rows.apart  both, apart

Everything else that reads a damaged value (``types``) raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Dialect,
    Float,
    Integer,
    LargeBinary,
    Row,
    Table,
    TypeDecorator,
    Uuid,
    type_coerce,
)
from sqlalchemy.types import NullType, TypeEngine

from warmboot.model.errors import RowUnreadable, WarmbootError
from warmboot.store.types import PathText, SafeText, UtcDateTime

T = TypeVar("T")

log = structlog.get_logger(__name__)

_KINDS: tuple[tuple[type[TypeEngine[Any]] | type[TypeDecorator[Any]], tuple[type, ...]], ...] = (
    (Boolean, (bool,)),
    (Integer, (int,)),
    (Float, (float, int)),
    (Uuid, (UUID,)),
    (LargeBinary, (bytes,)),
    (SafeText, (str,)),
    (UtcDateTime, (datetime,)),
)
"""SQLite keeps anything in any column. What is not named here is checked as it is decoded."""

_GARBLED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What a damaged value does to the libraries that are to read it."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A value that cannot be read: how it stands in the database, and why it cannot."""

    raw: object
    problem: str


class Lenient(TypeDecorator[Any]):
    """Reads as ``strict``, with ``Damage`` for what that cannot read."""

    impl = NullType
    cache_ok = True

    def __init__(self, strict: TypeEngine[Any]) -> None:
        super().__init__()
        self.strict = strict

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self.strict)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        read = self.strict.dialect_impl(dialect).result_processor(dialect, coltype)
        kinds = next((kinds for tp, kinds in _KINDS if isinstance(self.strict, tp)), None)
        text = isinstance(self.strict, PathText)
        flag = isinstance(self.strict, Boolean)

        def value_or_damage(raw: Any) -> Any:
            if raw is None:
                return None
            if (text and not isinstance(raw, str)) or (flag and raw not in (0, 1)):
                return Damage(raw, f"{raw!r} is none")
            try:
                value = raw if read is None else read(raw)
            except WarmbootError as error:
                return Damage(raw, error.details or error.brief)
            except _GARBLED as error:
                return Damage(raw, str(error) or type(error).__name__)
            if kinds is not None and not isinstance(value, kinds):
                return Damage(raw, f"expected {kinds[0].__name__}, found {type(raw).__name__}")
            return value

        return value_or_damage


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """``values`` are those that could be read; ``key`` is how its key stands in the database."""

    table: str
    key: Mapping[str, object]
    problem: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its id as the rest of the service writes it."""
        return " ".join(str(self.values.get(name, raw)) for name, raw in self.key.items())

    @property
    def where(self) -> str:
        """The row's key as a condition of SQL."""
        return " AND ".join(f"{name} = {_literal(raw)}" for name, raw in self.key.items())

    def error(self) -> RowUnreadable:
        return RowUnreadable(
            f"the row {self.id} of the table {self.table} cannot be read",
            details=self.problem,
            resolution="run the version of warmboot that wrote it, or restore a backup; "
            "`warmboot doctor` says how to look at it and how to remove it",
        )


def _literal(raw: object) -> str:
    if isinstance(raw, bytes):
        return f"X'{raw.hex()}'"
    if isinstance(raw, int | float):
        return str(raw)
    if isinstance(raw, UUID):  # so SQLite keeps it, and PostgreSQL takes it
        return f"'{raw.hex}'"
    return "'{}'".format(str(raw).replace("'", "''"))


class Rows(Generic[T]):
    """The rows of ``table`` as things. ``make`` gets the columns' values, but for ``omit``."""

    def __init__(
        self, table: Table, make: Callable[[dict[str, Any]], T], omit: Collection[str] = ()
    ) -> None:
        self.table = table
        self._make = make
        self._names = [column.name for column in table.c if column.name not in omit]
        self._key = [column.name for column in table.primary_key]
        self.columns = self._lenient(dict.fromkeys((*self._key, *self._names)))
        self.all_columns = self._lenient(table.c.keys())
        self._told: set[str] = set()

    def _lenient(self, names: Iterable[str]) -> list[ColumnElement[Any]]:
        columns = (self.table.c[name] for name in names)
        return [type_coerce(one, Lenient(one.type)).label(one.name) for one in columns]

    def one(self, row: Row[Any]) -> T:
        """``RowUnreadable``."""
        made = self._read(row)
        if isinstance(made, UnreadableRow):
            raise made.error()
        return made

    def every(self, rows: Iterable[Row[Any]]) -> tuple[T, ...]:
        """All of them, or ``RowUnreadable``."""
        return tuple(self.one(row) for row in rows)

    def all(self, rows: Iterable[Row[Any]]) -> tuple[T, ...]:
        """The things whose rows can be read."""
        return self.apart(rows)[0]

    def apart(self, rows: Iterable[Row[Any]]) -> tuple[tuple[T, ...], tuple[UnreadableRow, ...]]:
        whole: list[T] = []
        damaged: list[UnreadableRow] = []
        for row in rows:
            made = self._read(row)
            if isinstance(made, UnreadableRow):
                self.tell(made)
                damaged.append(made)
            else:
                whole.append(made)
        return tuple(whole), tuple(damaged)

    def tell(self, row: UnreadableRow) -> None:
        """Log an unreadable row, once."""
        if row.where not in self._told:
            self._told.add(row.where)
            log.error(f"{row.error().brief}: it is left as it is", why=row.problem)

    def _read(self, row: Row[Any]) -> T | UnreadableRow:
        values = dict(row._mapping)
        damages = {name: one for name, one in values.items() if isinstance(one, Damage)}
        if not damages:
            try:
                return self._make({name: values[name] for name in self._names})
            except (WarmbootError, TypeError, ValueError) as error:  # no such thing can be
                return self._unreadable(values, {}, f"{error}")
        problem = "; ".join(f"{name}: {one.problem}" for name, one in damages.items())
        return self._unreadable(values, damages, problem)

    def _unreadable(
        self, values: Mapping[str, Any], damages: Mapping[str, Damage], problem: str
    ) -> UnreadableRow:
        key = {name: damages[name].raw if name in damages else values[name] for name in self._key}
        whole = {name: value for name, value in values.items() if name not in damages}
        return UnreadableRow(self.table.name, key, problem, whole)
