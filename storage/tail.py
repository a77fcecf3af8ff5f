"""Item rows of runs, followed while they are stored.

Owns: which item tables there are at one moment, and what they hold beyond a mark, in
bounded batches of one snapshot each. Does not own: formats (`export`), what becomes of a
batch (`feed`).

Invariants: a row is read only after its commit; no row is read twice, since a row keeps its
rowid and a new one has a higher one; what was read and replaced later can be seen by a
count; a snapshot is held for one batch only, so the write-ahead log can be folded in.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from storage import export
from storage.reading import connect_read_only
from storage.schema import Tally, quote
from storage.store import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from storage.records import Scalar

__all__ = ["Batch", "Layout", "Mark", "Tail"]

BATCH_BYTES = 1 << 20
"""A batch ends with the rows that pass this."""
CHUNK_ROWS = 32


class Mark(Struct, frozen=True):
    """How far a table has been read."""

    row: int = 0
    """Everything up to this rowid has been looked at."""
    columns: tuple[str, ...] = ()
    """Its columns when its first row was written; empty: none was."""
    replaced: int = 0
    """Rows of these runs that had been replaced then."""


class Batch(Struct, frozen=True):
    """What comes next."""

    data: bytes
    rows: int
    marks: dict[str, Mark]
    is_mixed: bool
    is_all: bool
    """Nothing more was stored when it was read."""
    has_grown: bool = False
    """The columns are not those of the marks: nothing was read."""


class Layout(Struct, frozen=True):
    """An item table at one moment."""

    name: str
    columns: tuple[str, ...]
    last: int
    """Its highest rowid."""
    replaced: int


class Tail:
    """The item rows of some runs, in the order in which they were stored."""

    def __init__(self, database: str | Path, runs: Mapping[int, str]) -> None:
        """Open a connection of its own; `runs` are ids and names. Raises StorageError."""
        self.runs = tuple(runs.values())
        self._connection = connect_read_only(str(database))
        self._ids = ", ".join(f"{run:d}" for run in runs)
        self._marks = ", ".join("?" * len(runs))

    def __repr__(self) -> str:
        return f"<Tail of {', '.join(self.runs)}>"

    def version(self) -> int:
        """Another number than before when anything was committed meanwhile."""
        with self._told():
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    @contextmanager
    def snapshot(self) -> Iterator[list[Layout]]:
        """One moment of the database: its item tables, oldest first. Raises StorageError."""
        with self._told():
            self._connection.execute("BEGIN")
            try:
                yield self._layouts()
            finally:
                self._connection.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"the items cannot be read: {error}") from error

    def filled(self, layouts: Iterable[Layout]) -> list[Layout]:
        """Those tables that hold items of these runs."""
        return [layout for layout in layouts if self._has_rows(layout)]

    def count(self, layouts: Iterable[Layout]) -> int:
        """Rows of these runs in tables of this snapshot."""
        counts = (
            f"SELECT count(*) FROM {quote(layout.name)} WHERE _run IN ({self._marks})"
            for layout in layouts
        )
        return sum(self._connection.execute(each, self.runs).fetchone()[0] for each in counts)

    def read(
        self, layouts: list[Layout], marks: Mapping[str, Mark], form: str, *, is_first: bool
    ) -> Batch:
        """What tables of this snapshot hold beyond their marks, up to a bound.

        `is_first`: no row stands before these. For CSV there is one table, with its mark.
        """
        done = dict(marks)
        parts: list[bytes] = []
        size = rows = 0
        is_mixed = False
        for place, layout in enumerate(layouts):
            mark = done.get(layout.name, Mark())
            if form == "csv" and mark.columns != layout.columns:
                return Batch(b"", 0, dict(marks), False, False, has_grown=True)
            row = mark.row
            for chunk in self._chunks(layout, row):
                parts.append(
                    export.body(layout.columns, chunk, form, is_first=is_first and not parts)
                )
                if not mark.columns:
                    mark = replace(mark, columns=layout.columns, replaced=layout.replaced)
                later = (done.get(each.name, Mark()) for each in layouts[place + 1 :])
                is_mixed = is_mixed or any(each.columns for each in later)
                row = int(chunk[-1][-1])  # type: ignore[arg-type]
                rows += len(chunk)
                size += len(parts[-1])
                if size >= BATCH_BYTES:
                    done[layout.name] = replace(mark, row=row)
                    return Batch(b"".join(parts), rows, done, is_mixed, False)
            done[layout.name] = replace(mark, row=max(row, layout.last))
        return Batch(b"".join(parts), rows, done, is_mixed, True)

    def close(self) -> None:
        """Close. Idempotent."""
        self._connection.close()

    def _layouts(self) -> list[Layout]:
        found = self._connection.execute("SELECT name FROM item_table ORDER BY rowid").fetchall()
        replaced = dict(
            self._connection.execute(
                "SELECT code, sum(n) FROM tally WHERE domain = 0"
                f" AND run IN ({self._ids}) AND kind = {Tally.REPLACED:d} GROUP BY code"
            ).fetchall()
        )
        return [self._layout(name, replaced.get(name, 0)) for (name,) in found]

    def _layout(self, name: str, replaced: int) -> Layout:
        layout = self._connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
        columns = tuple(each for (each,) in layout.fetchall() if not each.startswith("_"))
        (last,) = self._connection.execute(
            f"SELECT coalesce(max(_rowid_), 0) FROM {quote(name)}"
        ).fetchone()
        return Layout(name, columns, last, replaced)

    def _has_rows(self, layout: Layout) -> bool:
        query = f"SELECT 1 FROM {quote(layout.name)} WHERE _run IN ({self._marks}) LIMIT 1"
        return self._connection.execute(query, self.runs).fetchone() is not None

    def _chunks(self, layout: Layout, after: int) -> Iterator[list[tuple[Scalar, ...]]]:
        """Rows beyond one, each with its rowid behind its values."""
        columns = ", ".join(map(quote, layout.columns))
        # By rowid, never by the index of _run: that would read the whole run at each look.
        cursor = self._connection.execute(
            f"SELECT {columns}, _rowid_ FROM {quote(layout.name)} NOT INDEXED"
            f" WHERE _rowid_ > ? AND _run IN ({self._marks}) ORDER BY _rowid_",
            (after, *self.runs),
        )
        try:
            while chunk := cursor.fetchmany(CHUNK_ROWS):
                yield chunk
        finally:
            cursor.close()
