"""Reading a database that may belong to another process: read-only, bounded in time.

Owns: read-only connections, queries of people and commands, item rows as stored.
Does not own: any write. A query that runs longer than it may ends as a StorageError; a
long-held snapshot would keep the crawl's write-ahead log from being folded in.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import bulk, jobs, schema
from storage.lock import is_held
from storage.schema import COUNTERS
from storage.store import StorageError
from storage.tables import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from storage.records import RunRow, Scalar

__all__ = ["Reader", "connect_read_only", "count_run", "item_rows"]

QUERY_S = 30.0
"""How long a query may take."""
STEPS = 10_000
"""Virtual-machine steps between two looks at the clock."""


class Reader:
    """An existing database, for `crawler sql`, `report`, `runs` and `export`."""

    def __init__(self, path: str | Path, *, query_s: float = QUERY_S) -> None:
        """Open it. Raises StorageError when it is missing or not ours."""
        self.path = str(path)
        self._query_s = query_s
        if not Path(path).is_file():
            raise StorageError(f"there is no database {path}", hint="crawler run SPIDER makes one")
        self.is_in_use = is_held(self.path)
        """A crawl had the database open when the reader was made."""
        is_whole = not self.is_in_use and not Path(f"{self.path}-wal").exists()
        self._connection = connect_read_only(self.path, is_whole=is_whole)
        self.is_older = schema.check(self._connection, self.path) < schema.VERSION
        """The file lacks names of this version: the next crawl that opens it adds them."""

    def __repr__(self) -> str:
        return f"<Reader {self.path}>"

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def query(
        self, sql: str, parameters: Sequence[Scalar] | dict[str, Scalar] = ()
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one statement. Raises StorageError for any mistake in it."""
        end_at = time.monotonic() + self._query_s
        self._connection.set_progress_handler(lambda: time.monotonic() > end_at, STEPS)
        try:
            cursor = self._connection.execute(sql, parameters)
            rows = cursor.fetchall()
        except sqlite3.Error as error:
            raise _explained(error, self._query_s) from error
        except sqlite3.Warning as error:
            raise StorageError(f"not one statement: {error}") from error
        finally:
            self._connection.set_progress_handler(None, 0)
        return [column[0] for column in cursor.description or ()], rows

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return jobs.read_runs(self._connection)

    def tables(self) -> list[str]:
        """Names of the item tables, oldest first."""
        return [name for (name,) in self.query("SELECT name FROM item_table ORDER BY rowid")[1]]

    def count(self, run: int) -> dict[str, int]:
        """Counters of a run, as `Store.count`."""
        return count_run(self._connection, run)

    def items(
        self, table: str, *, run: str | None = None, private: bool = False
    ) -> tuple[list[str], Iterator[tuple[Scalar, ...]]]:
        """Columns and a stream of the rows of an item table; `run` is a run's name.

        Raises StorageError when there is no such table.
        """
        return item_rows(self._connection, table, run=run, private=private)

    def close(self) -> None:
        """Close. Idempotent."""
        self._connection.close()


def connect_read_only(path: str, *, is_whole: bool = False) -> sqlite3.Connection:
    """A connection that cannot write. Raises StorageError when the file is not ours.

    `is_whole`: nobody writes it and no log lies beside it; then none is made either.
    """
    uri = f"{Path(path).absolute().as_uri()}?mode=ro{'&immutable=1' if is_whole else ''}"
    try:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0
        )
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be opened: {error}") from error
    try:
        connection.execute("PRAGMA query_only = ON")
        if schema.check(connection, path) == 0:
            raise StorageError(f"{path} holds no crawl", hint="crawler run SPIDER makes one")
    except BaseException:
        connection.close()
        raise
    return connection


def count_run(connection: sqlite3.Connection, run: int) -> dict[str, int]:
    """Whole-number counters of a run; zeros when there is no such run.

    Counters that a file of an older version does not have are left out.
    """
    layout = connection.execute("SELECT name FROM pragma_table_info('run_domain')")
    have = {name for (name,) in layout.fetchall()}
    names = [name for name in COUNTERS if not name.endswith("_s") and name in have]
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
    row = bulk.read_one(
        connection, f"SELECT json_array({sums}) FROM run_domain WHERE run = ?", (run,)
    )
    counted = dict(zip(names, row, strict=True))
    counted["fetches"] = counted["requests"]
    return counted


def item_rows(
    connection: sqlite3.Connection, table: str, *, run: str | None = None, private: bool = False
) -> tuple[list[str], Iterator[tuple[Scalar, ...]]]:
    """Columns, and rows oldest first; `_` columns only when `private`."""
    known = connection.execute("SELECT name FROM item_table WHERE name = ?", (table,)).fetchone()
    if known is None:
        names = [name for (name,) in connection.execute("SELECT name FROM item_table")]
        raise StorageError(
            f"there is no item table {table!r}",
            hint=f"there is: {', '.join(names)}" if names else "no items are stored yet",
        )
    layout = connection.execute("SELECT name FROM pragma_table_info(?)", known).fetchall()
    columns = [name for (name,) in layout if private or not name.startswith("_")]
    chosen = ", ".join(map(quote, columns)) or "NULL"
    where, parameters = ("", ()) if run is None else (" WHERE _run = ?", (run,))
    rows = connection.execute(
        f"SELECT {chosen} FROM {quote(known[0])}{where} ORDER BY _rowid_", parameters
    )
    return columns, rows


def _explained(error: sqlite3.Error, seconds: float) -> StorageError:
    text = str(error)
    if text == "interrupted":
        return StorageError(f"the query took more than {seconds:g} s", hint="add a LIMIT")
    if "readonly" in text or "query_only" in text:
        return StorageError("the database is read-only here", hint="only SELECT works")
    hint = "the public names are in `crawler sql --schema`" if "no such" in text else None
    return StorageError(f"SQL: {text}", hint=hint)
