"""Item tables: made when declared or met, grown when a new field comes, upserted.

Owns: their layout, their `NAME_latest` views, and how a group's items become rows.
Does not own: what an item is, or its transaction.

Invariants: with a key an item is unique on (_run, key) and the later one replaces it
whole; without, on (_run, _request, _ordinal), so a page committed again cannot double.
A field met on the way gets a column without a type: its values come back as they were.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from storage import bulk
from storage.records import Column
from storage.schema import is_reserved, latest_view, quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from storage.ledger import Sums
    from storage.records import ItemRow, Scalar, Table

__all__ = ["ItemTables", "Refused", "StoredItem"]

MAX_COLUMNS = 1_000
TYPES = frozenset({"TEXT", "INTEGER", "REAL", "BLOB", ""})


class Refused(ValueError):
    """Data that cannot become rows; the message says why."""


class StoredItem(Struct, frozen=True):
    """An item on its way into its table."""

    run: str
    request: int | None
    item: ItemRow
    sums: Sums
    """Where it counts, if it is a new row."""


class _Layout(Struct):
    name: str
    key: str | None
    columns: dict[str, Column]
    """By name in lower case, as SQLite compares them."""


class ItemTables:
    """The item tables of one database, as its writer knows them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._layouts: dict[str, _Layout] = {}

    def __repr__(self) -> str:
        return f"<ItemTables {len(self._layouts)} known>"

    def forget(self) -> None:
        """Ask the file again: a rollback may have undone what is remembered."""
        self._layouts.clear()

    def declare(self, table: Table) -> None:
        """Create a table or add its new columns. Raises Refused when it has changed."""
        layout = self._find(table.name)
        if layout is None:
            self._create(table.name, table.key, table.columns)
            return
        if layout.key != table.key:
            raise Refused(f"table {table.name}: the key was {layout.key}, now it is {table.key}")
        for column in table.columns:
            known = layout.columns.get(column.name.lower())
            if known and known.type and known.type != column.type:
                raise Refused(
                    f"table {table.name}: {column.name} was {known.type}, now it is {column.type}"
                )
        self._grow(layout, table.columns)

    def write(self, items: Sequence[StoredItem]) -> Counter[tuple[str, str]]:
        """Insert a group's items; each new row counts in its `sums`.

        Returns how many rows that were there before were replaced, by run and table.
        """
        replaced: Counter[tuple[str, str]] = Counter()
        groups: dict[str, list[StoredItem]] = {}
        for stored in items:
            groups.setdefault(stored.item.table.lower(), []).append(stored)
        for group in groups.values():
            name = group[0].item.table
            layout = self._find(name) or self._create(name, None, ())
            for run, n in self._insert(layout, group).items():
                replaced[run, layout.name] += n
        return replaced

    def _insert(self, layout: _Layout, group: list[StoredItem]) -> Counter[str]:
        """Upsert items of one table; by run, how many rows were there before."""
        met = {name.lower(): name for stored in group for name in stored.item.columns}
        fields = list(met.values())
        self._grow(layout, [Column(name=name, type="") for name in fields])
        rows = [
            (stored.run, stored.request, stored.item.ordinal, *_values(stored.item, fields))
            for stored in group
        ]
        before = self._count(layout, group, rows, fields)
        columns = ", ".join(map(quote, ("_run", "_request", "_ordinal", *fields)))
        identity = f"_run, {quote(layout.key)}" if layout.key else "_run, _request, _ordinal"
        replaced = ("_request", "_ordinal", *(c.name for c in layout.columns.values()))
        changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in replaced)
        bulk.write(
            self._connection,
            f"INSERT INTO {quote(layout.name)} ({columns}) SELECT * FROM :rows"
            f" WHERE column1 IS NOT NULL ON CONFLICT ({identity}) DO UPDATE SET {changes}",
            rows,
        )
        return before

    def _count(
        self,
        layout: _Layout,
        group: list[StoredItem],
        rows: list[tuple[Scalar, ...]],
        fields: list[str],
    ) -> Counter[str]:
        """Count the items that will be new rows; by run, the rows that are there already."""
        if layout.key:
            names = [name.lower() for name in fields]
            if layout.key.lower() not in names:
                raise Refused(f"table {layout.name}: an item without its key {layout.key}")
            place = 3 + names.index(layout.key.lower())
            identities: list[tuple[Scalar, ...]] = [(row[0], row[place]) for row in rows]
            same = f"t._run = v.column2 AND t.{quote(layout.key)} = v.column3"
        else:
            identities = [row[:3] for row in rows]
            same = "t._run = v.column2 AND t._request = v.column3 AND t._ordinal = v.column4"
        known = bulk.read(
            self._connection,
            "SELECT json_group_array(v.column1) FROM :rows v"
            f" CROSS JOIN {quote(layout.name)} t ON {same}",
            [(n, *identity) for n, identity in enumerate(identities)],
        )
        seen = {identities[n] for n in known}
        before = Counter(str(identity[0]) for identity in seen)
        for stored, identity in zip(group, identities, strict=True):
            if identity not in seen:
                seen.add(identity)
                stored.sums["items"] += 1
        return before

    def _find(self, name: str) -> _Layout | None:
        layout = self._layouts.get(name.lower())
        if layout is None:
            row = self._connection.execute(
                "SELECT name, key FROM item_table WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return None
            found = bulk.read_one(
                self._connection,
                "SELECT json_group_array(json_array(name, type)) FROM pragma_table_info(?)",
                (row[0],),
            )
            columns = {n.lower(): Column(name=n, type=t) for n, t in found if n[:1] != "_"}
            layout = _Layout(row[0], row[1], columns)
            self._layouts[name.lower()] = layout
        return layout

    def _create(self, name: str, key: str | None, columns: Sequence[Column]) -> _Layout:
        taken = self._connection.execute(
            "SELECT name FROM sqlite_master"
            " WHERE lower(name) IN (lower(?1), lower(?1) || '_latest')",
            (name,),
        ).fetchone()
        if is_reserved(name) or taken:
            raise Refused(f"an item table cannot be called {name!r}: the name is taken")
        _check(name, columns)
        if key is not None and key not in [column.name for column in columns]:
            raise Refused(f"table {name}: the key {key} is none of its columns")
        fields = [
            f"{quote(c.name)} {c.type}{' NOT NULL' if c.name == key else ''}, " for c in columns
        ]
        identity = f"_run, {quote(key)}" if key else "_run, _request, _ordinal"
        self._connection.execute(
            f"CREATE TABLE {quote(name)} ({''.join(fields)}_run TEXT NOT NULL,"
            f" _request INTEGER, _ordinal INTEGER, UNIQUE ({identity}))"
        )
        self._connection.execute(latest_view(name, key))
        self._connection.execute("INSERT INTO item_table VALUES (?, ?)", (name, key))
        layout = _Layout(name, key, {column.name.lower(): column for column in columns})
        self._layouts[name.lower()] = layout
        return layout

    def _grow(self, layout: _Layout, columns: Iterable[Column]) -> None:
        new = [column for column in columns if column.name.lower() not in layout.columns]
        if not new:
            return
        _check(layout.name, [*layout.columns.values(), *new])
        for column in new:
            self._connection.execute(
                f"ALTER TABLE {quote(layout.name)} ADD COLUMN {quote(column.name)} {column.type}"
            )
            layout.columns[column.name.lower()] = column


def _check(table: str, columns: Sequence[Column]) -> None:
    """Refuse names that SQLite, or the private columns, cannot live with."""
    names = [column.name.lower() for column in columns]
    if len(names) > MAX_COLUMNS:
        raise Refused(f"table {table}: more than {MAX_COLUMNS:,} columns")
    for name in names:
        if not name or name.startswith("_") or "\0" in name:
            raise Refused(f"table {table}: a column cannot be called {name!r}")
    for column in columns:
        if column.type not in TYPES:
            raise Refused(f"table {table}: {column.name} cannot be of type {column.type!r}")
    if len(set(names)) < len(names):
        raise Refused(f"table {table}: two columns differ only in the case of letters")


def _values(item: ItemRow, fields: list[str]) -> tuple[Scalar, ...]:
    if list(item.columns) == fields:
        return item.values
    names = [name.lower() for name in item.columns]
    given = dict(zip(names, item.values, strict=True))
    if len(given) < len(names):
        raise Refused(f"table {item.table}: two fields differ only in the case of letters")
    return tuple(given.get(name.lower()) for name in fields)
