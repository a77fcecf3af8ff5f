"""Items: what a callback gives becomes a row, or an error that names the field."""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ItemError, UsageError
from crawler.items import check_table_name, is_item, item, table_of, to_row
from storage import schema

if TYPE_CHECKING:
    from collections.abc import Mapping


class Colour(enum.Enum):
    RED = "red"


@item(key="url")
class BookPage:
    url: str
    price: float
    copies: int | None = None
    is_new: bool = False
    cover: bytes = b""
    tags: list[str] = field(default_factory=list)
    seen_at: dt.datetime | None = None
    exact: Decimal = Decimal("0.1")
    colour: Colour = Colour.RED
    kind: Literal["a", "b"] = "a"


@dataclass
class Author:
    name: str
    born: int | float


class Shelf(msgspec.Struct):
    name: str
    books: int


class Pydantic:
    """As pydantic marks its models."""

    __pydantic_fields__ = {"a": None, "b": None}

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def model_dump(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b}


def test_a_declared_item_has_a_table_with_typed_columns() -> None:
    table = table_of(BookPage)
    assert (table.name, table.key) == ("book_page", "url")
    assert {column.name: column.type for column in table.columns} == {
        "url": "TEXT",
        "price": "REAL",
        "copies": "INTEGER",
        "is_new": "INTEGER",
        "cover": "BLOB",
        "tags": "TEXT",
        "seen_at": "TEXT",
        "exact": "TEXT",
        "colour": "TEXT",
        "kind": "TEXT",
    }


def test_an_item_is_frozen_slotted_and_built_by_keyword() -> None:
    book = BookPage(url="u", price=1.5)
    with pytest.raises(AttributeError):
        book.price = 2  # type: ignore[misc]
    assert not hasattr(book, "__dict__")
    assert book == BookPage(url="u", price=1.5)


def test_a_row_holds_what_sqlite_can_hold() -> None:
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    book = BookPage(url="ü", price=3, tags=["b", "a"], seen_at=moment, cover=b"\0", is_new=True)
    row = to_row(book, 7, "items")
    assert (row.table, row.ordinal) == ("book_page", 7)
    assert dict(zip(row.columns, row.values, strict=True)) == {
        "url": "ü",
        "price": 3.0,
        "copies": None,
        "is_new": True,
        "cover": b"\0",
        "tags": '["b","a"]',
        "seen_at": "2026-01-02T03:04:05+00:00",
        "exact": "0.1",
        "colour": "red",
        "kind": "a",
    }


@pytest.mark.parametrize(
    ("value", "table", "values"),
    [
        (Author("a", 2), "author", ("a", 2.0)),
        (Shelf("s", 3), "shelf", ("s", 3)),
        (Pydantic(1, {"x": 2}), "pydantic", (1, '{"x":2}')),
        ({"a": 1, "b": None}, "things", (1, None)),
    ],
)
def test_other_kinds_of_items_are_known_by_their_marks(
    value: Any, table: str, values: tuple[Any, ...]
) -> None:
    assert is_item(value)
    row = to_row(value, 0, "things")
    assert (row.table, row.values) == (table, values)


def test_attrs_classes_are_items() -> None:
    class Attribute:
        name = "a"

    class Marked:
        __attrs_attrs__ = (Attribute,)
        a = 5

    assert to_row(Marked(), 0, "items").columns == ("a",)


@pytest.mark.parametrize("value", [None, 1, "text", [1], object(), BookPage])
def test_anything_else_is_no_item(value: Any) -> None:
    assert not is_item(value)
    with pytest.raises(ItemError):
        to_row(value, 0, "items")


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**63,
        -(2**63) - 1,
        "\ud800",
        ["\ud800"],
        [float("nan")],
        object(),
        {"deep": object()},
    ],
)
def test_a_value_that_could_not_be_read_back_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ItemError, match="'bad'"):
        to_row({"good": 1, "bad": value}, 0, "items")


@pytest.mark.parametrize(
    ("name", "value"),
    [("price", "12"), ("url", 5), ("copies", "3"), ("is_new", 1), ("copies", 1.5)],
)
def test_a_value_of_another_type_than_its_field_is_refused_by_name(name: str, value: Any) -> None:
    given: dict[str, Any] = {"url": "u", "price": 1.0} | {name: value}
    with pytest.raises(ItemError, match=f"'{name}': expected"):
        to_row(BookPage(**given), 0, "items")


def test_a_key_must_have_a_value() -> None:
    with pytest.raises(ItemError, match="'url'"):
        to_row(BookPage(url=None, price=1.0), 0, "items")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [{}, {1: 2}, {"_run": 1}, {"": 1}, {'a"b': 1}, {"a": 1, "A": 2}, {"a\nb": 1}]
)
def test_names_that_cannot_be_columns_are_refused(value: Mapping[Any, Any]) -> None:
    with pytest.raises(ItemError):
        to_row(value, 0, "items")


@pytest.mark.parametrize(
    "name", ["runs", "Requests", "v_mine", "sqlite_x", "book_latest", "req", "_a"]
)
def test_names_of_the_database_are_refused_when_the_class_is_made(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        item(table=name)(type("Thing", (), {"__annotations__": {"a": int}}))


def test_every_name_of_the_schema_is_refused() -> None:
    for name in [value.name for value in _definitions()]:
        with pytest.raises(UsageError):
            check_table_name(name, "item X")


def _definitions() -> list[schema.Definition]:
    found: list[schema.Definition] = []
    for value in vars(schema).values():
        if isinstance(value, tuple):
            found += [each for each in value if isinstance(each, schema.Definition)]
    assert found
    return found


def test_a_field_of_the_databases_own_or_a_mistyped_key_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="_run"):

        @item
        class Bad:
            _run: int

    with pytest.raises(UsageError, match="`ulr`") as caught:

        @item(key="ulr")
        class Worse:
            url: str

    assert caught.value.hint == "did you mean `url`?"


def test_a_class_made_from_a_local_type_still_becomes_rows() -> None:
    class Local(enum.StrEnum):
        X = "x"

    @item
    class HTMLThing:
        kind: Local
        size: int | None

    row = to_row(HTMLThing(kind=Local.X, size=3), 0, "items")
    assert (row.table, row.values) == ("html_thing", ("x", 3))
    assert [column.type for column in table_of(HTMLThing).columns] == ["TEXT", "INTEGER"]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text | st.binary(max_size=9)
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
parts = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["a", "b c", "d-1", "é"]), scalars | numbers, min_size=1))
def test_scalars_stay_what_they_are(value: dict[str, Any]) -> None:
    row = to_row(value, 0, "items")
    assert dict(zip(row.columns, row.values, strict=True)) == value


@given(st.lists(parts, max_size=4) | st.dictionaries(text, parts, max_size=4))
def test_what_has_parts_is_kept_as_json(value: Any) -> None:
    (kept,) = to_row({"a": value}, 0, "items").values
    assert isinstance(kept, str)
    assert json.loads(kept) == value
