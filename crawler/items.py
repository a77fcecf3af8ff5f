"""What a callback gives away: values that become rows of an item table.

Owns: `@item`; which values are items (dataclass, mapping, and attrs, pydantic and msgspec
classes by the marks they leave); names and SQL types of columns; values as SQL scalars.
Does not own: tables and their growth (the store), or which table mappings go to (`spider`).

Invariants: what could not be read back the same is refused, with the field's name; a name
that the database uses itself is refused when the class is made; how a class becomes a row
is worked out once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from inspect import get_annotations
from operator import attrgetter
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec

from crawler.errors import ItemError, UsageError, nearest
from storage import Column, ItemRow, Table, is_reserved

if TYPE_CHECKING:
    from storage import Scalar

__all__ = ["check_table_name", "is_item", "item", "table_of", "to_row"]

T = TypeVar("T")
LARGEST = 2**63 - 1
MARK = "__crawler_item__"
_NAME = re.compile(r"[^\W_][^\x00-\x1f\x7f\"`\[\]]{0,119}").fullmatch
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_json = msgspec.json.Encoder(order="deterministic")

SQL_TYPES: Final[Mapping[type, str]] = {
    str: "TEXT",
    bool: "INTEGER",
    int: "INTEGER",
    float: "REAL",
    bytes: "BLOB",
}
FITTING: Final[Mapping[type, tuple[type, ...]]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
    bytes: (bytes,),
}
"""What a field annotated with one of these may hold, besides None."""


# Declaring ----------------------------------------------------------------------------


@overload
def item(cls: type[T], /) -> type[T]: ...


@overload
def item(*, key: str | None = None, table: str | None = None) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def item(
    cls: type[T] | None = None, /, *, key: str | None = None, table: str | None = None
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class an item: a frozen, slotted dataclass with a table of its own.

    `key` names the field that is unique within a run, where the later item wins; None:
    every item is a row. `table` is its name; None: the class's in snake_case. Raises
    UsageError for names that the database uses itself, and for a key that is no field.
    """

    def declare(declared: type[T]) -> type[T]:
        made = dataclass(frozen=True, slots=True)(declared)
        name = table or _snake_case(declared.__name__)
        names = tuple(each.name for each in fields(made))  # type: ignore[arg-type]
        check_table_name(name, f"item {declared.__name__}")
        _check_fields(names, key, declared.__name__)
        setattr(made, MARK, (name, key))
        return made

    return declare if cls is None else declare(cls)


def check_table_name(name: str, where: str) -> None:
    """Raise UsageError for a name that an item table cannot have."""
    if name and (is_reserved(name) or name.lower().endswith("_latest")):
        raise UsageError(
            f"{where}: the database uses the table name `{name}` itself",
            hint='give it another one: @item(table="...")',
        )
    if not _NAME(name):
        raise UsageError(
            f"{where}: `{name}` cannot be the name of a table",
            hint='letters, digits and _, a letter first: @item(table="books")',
        )


def _check_fields(names: tuple[str, ...], key: str | None, where: str) -> None:
    try:
        _check_names(names)
    except ItemError as error:
        raise UsageError(f"item {where}: {error}", hint="give the field another name") from error
    if key is not None and key not in names:
        near = nearest(key, names)
        raise UsageError(
            f"item {where}: the key `{key}` is no field of it",
            hint=f"did you mean `{near}`?" if near else f"its fields: {', '.join(names)}",
        )


@lru_cache(maxsize=1024)
def _check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of columns, as they are. Raises ItemError for one that cannot be."""
    if not names:
        raise ItemError("an item without fields")
    for name in names:
        if type(name) is not str or not _NAME(name):
            raise ItemError(
                f"field {name!r}: a name begins with a letter or digit and has no quotes or "
                "brackets; those with `_` in front belong to the database"
            )
    if len({name.lower() for name in names}) < len(names):
        raise ItemError(f"fields that differ only by case: {', '.join(names)}")
    return names


def _snake_case(name: str) -> str:
    return _HUMP.sub("_", name).lower()


# Classes ------------------------------------------------------------------------------


class _Plan:
    """How instances of a class become rows."""

    __slots__ = ("fitting", "key", "kinds", "names", "read", "table")

    def __init__(self, cls: type) -> None:
        declared = cls.__dict__.get(MARK)
        name: str
        self.key: str | None
        name, self.key = declared or (_snake_case(cls.__name__), None)
        if declared is None:
            try:
                check_table_name(name, f"item {cls.__name__}")
            except UsageError as error:
                raise ItemError(str(error)) from error
        self.names = _check_names(_field_names(cls))
        hints = _hints(cls)
        self.kinds = tuple(_kind(hints.get(name, Any)) for name in self.names)
        self.fitting = tuple(FITTING.get(kind, ()) for kind in self.kinds)
        get = attrgetter(*self.names)
        self.read: Callable[[Any], tuple[Any, ...]] = (
            get if len(self.names) > 1 else lambda value: (get(value),)
        )
        columns = zip(self.names, self.kinds, strict=True)
        self.table = Table(
            name=name,
            key=self.key,
            columns=tuple(Column(name=n, type=SQL_TYPES.get(kind, "TEXT")) for n, kind in columns),
        )


_plans: dict[type, _Plan | None] = {}


def _plan_of(cls: type) -> _Plan | None:
    """The plan of a class; None: its instances are no items (or mappings)."""
    try:
        return _plans[cls]
    except KeyError:
        plan = _plans[cls] = _Plan(cls) if _has_fields(cls) else None
        return plan


def _has_fields(cls: type) -> bool:
    return (
        is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "__pydantic_fields__")
        or hasattr(cls, "__struct_fields__")
    )


def _field_names(cls: Any) -> tuple[str, ...]:
    if is_dataclass(cls):
        return tuple(each.name for each in fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(each.name for each in cls.__attrs_attrs__)
    return tuple(getattr(cls, "__pydantic_fields__", None) or cls.__struct_fields__)


def _hints(cls: type) -> dict[str, Any]:
    """Annotations of a class; a name that cannot be found any more leaves its field open."""
    try:
        return get_type_hints(cls)
    except Exception:  # an annotation is any expression, and may raise anything
        simple = {kind.__name__: kind for kind in SQL_TYPES}
        written: dict[str, Any] = {}
        for each in reversed(cls.__mro__):
            written |= get_annotations(each)
        return {name: simple.get(str(text).partition(" |")[0]) for name, text in written.items()}


def _kind(hint: Any) -> type:
    """The Python type that decides a column; `object` for what is written as text."""
    hint = getattr(hint, "__supertype__", hint)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        kinds = {_kind(part) for part in get_args(hint) if part is not NoneType}
        return float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else object
    if origin is Literal:
        kinds = {type(value) for value in get_args(hint) if value is not None}
        return kinds.pop() if len(kinds) == 1 else object
    if isinstance(hint, type) and issubclass(hint, Enum):
        return int if issubclass(hint, int) else object
    return hint if hint in SQL_TYPES else object


def table_of(cls: type) -> Table:
    """The table that a class's instances go to. Raises ItemError for no item class."""
    plan = _plan_of(cls)
    if plan is None:
        raise ItemError(f"{cls.__name__} is no item class")
    return plan.table


def is_item(value: object) -> bool:
    """Whether a value becomes a row. A Request looks like one: ask for it first."""
    return isinstance(value, Mapping) or _has_plan(type(value))


def _has_plan(cls: type) -> bool:
    return _plans[cls] is not None if cls in _plans else _has_fields(cls)


# Rows ---------------------------------------------------------------------------------


def to_row(value: Any, ordinal: int, default_table: str) -> ItemRow:
    """An item as a row; mappings go to `default_table`.

    Raises ItemError, with the field's name, for what SQLite could not give back: NaN and
    infinities, integers beyond 64 bit, lone surrogates, objects without a JSON form; and
    for a value that is not of its field's annotated type.
    """
    plan = _plan_of(type(value))
    if plan is None:
        return _mapping_row(value, ordinal, default_table)
    scalars: list[Any] = [
        each
        if each is None or (type(each) is kind and _is_safe(each, kind))
        else _scalar(each, name, fitting)
        for each, kind, name, fitting in zip(
            plan.read(value), plan.kinds, plan.names, plan.fitting, strict=True
        )
    ]
    if plan.key is not None and getattr(value, plan.key) is None:
        raise ItemError(f"field {plan.key!r} of {type(value).__name__} is the key: it is None")
    return ItemRow(
        table=plan.table.name, columns=plan.names, values=tuple(scalars), ordinal=ordinal
    )


def _is_safe(value: Any, kind: type) -> bool:
    """The common values that need no second look; the rest may still be fine."""
    return value.isascii() if kind is str else kind is int and value.bit_length() < 64


def _mapping_row(value: Any, ordinal: int, table: str) -> ItemRow:
    if not isinstance(value, Mapping):
        raise ItemError(f"{type(value).__name__} is no item: {value!r:.80}")
    names = tuple(value)
    if any(type(name) is not str for name in names):
        raise ItemError(f"an item's field names must be str: {names!r:.200}")
    scalars = tuple(_scalar(value[name], name, ()) for name in _check_names(names))
    return ItemRow(table=table, columns=names, values=scalars, ordinal=ordinal)


def _scalar(value: Any, name: str, fitting: tuple[type, ...]) -> Scalar:
    """A value as SQLite holds it; `fitting` empty: any value will do."""
    if type(value) not in SQL_TYPES and value is not None:
        value = _built(value, name)
    if value is None:
        return None
    if fitting and not isinstance(value, fitting):
        wanted = fitting[0].__name__
        raise ItemError(f"field {name!r}: expected {wanted}, got {value!r:.80}")
    if isinstance(value, bool | bytes):
        return value
    if isinstance(value, str):
        return _checked_text(value, name)
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        raise ItemError(f"field {name!r}: {value} does not fit into 64 bit")
    if isinstance(value, float) and value - value != 0:
        raise ItemError(f"field {name!r}: {value} is no number that SQLite keeps")
    return float(value) if float in fitting else value


def _checked_text(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ItemError(f"field {name!r}: a lone surrogate in {value!r:.80}") from error
    return value


def _built(value: Any, name: str) -> Any:
    """Anything else as str, int, float or bytes; what has parts as JSON."""
    kind = next((each for each in SQL_TYPES if isinstance(value, each)), None)
    if kind is not None and not isinstance(value, Enum):
        return kind(value)
    if isinstance(value, datetime | date | time | Decimal):
        return str(value) if isinstance(value, Decimal) else value.isoformat()
    try:
        built = msgspec.to_builtins(value, enc_hook=_foreign, order="deterministic")
        _refuse_nan(built, name)
        return _json.encode(built).decode() if isinstance(built, dict | list) else built
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ItemError(f"field {name!r} cannot be stored: {error}") from error


def _foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _refuse_nan(value: Any, name: str) -> None:
    if isinstance(value, float) and value - value != 0:
        raise ItemError(f"field {name!r}: {value} is no number that JSON keeps")
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_nan(part, name)
