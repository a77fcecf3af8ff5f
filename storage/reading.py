"""Reading a database that may belong to another process: read-only, bounded in time.

Owns: read-only connections, queries of people and commands, item rows as stored.
Does not own: any write. A query that runs longer than it may ends as a StorageError; a
long-held snapshot would keep the crawl's write-ahead log from being folded in.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import bulk, jobs, lookup, schema
from storage.lock import is_held
from storage.records import Queues
from storage.schema import COUNTERS, quote
from storage.store import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from storage.records import RunRow, Scalar

__all__ = ["Reader", "connect_read_only", "count_run", "is_readable", "item_rows", "queues_of"]

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
        if not is_readable(path):
            raise StorageError(
                f"{path} cannot be read: permission denied",
                hint=f"its owner can allow it: chmod a+r {shlex.quote(str(path))}",
            )
        self.is_in_use = is_held(self.path)
        """A crawl had the database open when the reader was made."""
        is_whole = not self.is_in_use and not Path(f"{self.path}-wal").exists()
        self._connection = connect_read_only(self.path, is_whole=is_whole)
        # ATTACH makes files, and VACUUM INTO is an ATTACH too.
        self._connection.set_authorizer(
            lambda action, *_: (
                sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
            )
        )
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
        with self._bounded():
            cursor = self._connection.execute(sql, parameters)
            rows = cursor.fetchall()
        return [column[0] for column in cursor.description or ()], rows

    def find_request(self, run: str, domains: Iterable[str], fingerprint: bytes) -> int | None:
        """Id of the request with a fingerprint in one of the domains; None: not seen."""
        with self._bounded():
            return lookup.find_request(self._connection, run, domains, fingerprint)

    def find_urls(self, run: str, domains: Iterable[str], url: str, limit: int) -> list[int]:
        """Ids of requests whose URL is `url` or goes on from it; reads the domains' rows."""
        with self._bounded():
            return lookup.find_urls(self._connection, run, domains, url, limit)

    def count_ahead(self, request: int) -> int:
        """Queued requests that go before a queued one in its domain."""
        with self._bounded():
            return lookup.count_ahead(self._connection, request)

    def find_children(self, request: int, moments: Sequence[float]) -> list[int]:
        """Ids of the requests that a page, settled at these moments, led to."""
        with self._bounded():
            return lookup.find_children(self._connection, request, moments)

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Statements that end in time, their errors as StorageError."""
        end_at = time.monotonic() + self._query_s
        self._connection.set_progress_handler(lambda: time.monotonic() > end_at, STEPS)
        try:
            yield
        except sqlite3.Error as error:
            if str(error) == "interrupted" and time.monotonic() <= end_at:
                raise KeyboardInterrupt from error  # a signal came, and SQLite kept it
            raise _explained(error, self._query_s) from error
        except sqlite3.Warning as error:
            raise StorageError(
                f"not one statement: {error}", hint="one SELECT at a time"
            ) from error
        finally:
            self._connection.set_progress_handler(None, 0)

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
        self, table: str, *, run: str | None = None, latest: bool = False
    ) -> tuple[list[str], Iterator[tuple[Scalar, ...]]]:
        """Columns and a stream of the rows of an item table; `run` is a run's name.

        `latest`: the newest row per key over all runs, whatever `run` says. Raises
        StorageError when there is no such table.
        """
        return item_rows(self._connection, table, run=run, latest=latest)

    def close(self) -> None:
        """Close. Idempotent."""
        self._connection.close()


def is_readable(path: str | Path) -> bool:
    """Whether this process may read a file; not by opening it, whose closing would end the
    locks that SQLite has on it."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


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
        raise StorageError(
            f"{path} cannot be opened: {error}", hint="choose another file with --db"
        ) from error
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


def queues_of(connection: sqlite3.Connection, run: int, limit: int) -> Queues:
    """What a run has queued, and its longest queues."""
    queued, waiting, domains, longest = bulk.read_one(
        connection,
        "WITH q AS MATERIALIZED (SELECT domain, queued, waiting FROM run_domain"
        " INDEXED BY run_domain_queued WHERE run = ?1 AND queued > 0)"
        " SELECT json_array((SELECT coalesce(sum(queued), 0) FROM q),"
        " (SELECT coalesce(sum(waiting), 0) FROM q), (SELECT count(*) FROM q),"
        " (SELECT json_group_array(json_array(d.name, l.queued, l.waiting)) FROM"
        " (SELECT * FROM q ORDER BY queued DESC, domain LIMIT ?2) l"
        " CROSS JOIN domain d ON d.id = l.domain))",
        (run, limit),
    )
    rows = tuple((name, rows, wait) for name, rows, wait in longest)
    return Queues(queued=queued, waiting=waiting, domains=domains, longest=rows)


def item_rows(
    connection: sqlite3.Connection,
    table: str,
    *,
    run: str | None = None,
    latest: bool = False,
) -> tuple[list[str], Iterator[tuple[Scalar, ...]]]:
    """Columns, and rows oldest first, without private columns. `latest`: the rows of the table's
    `_latest` view, in its order."""
    known = connection.execute("SELECT name FROM item_table WHERE name = ?", (table,)).fetchone()
    if known is None:
        names = [name for (name,) in connection.execute("SELECT name FROM item_table")]
        raise StorageError(
            f"there is no item table {table!r}",
            hint=f"there is: {', '.join(names)}" if names else "no items are stored yet",
        )
    layout = connection.execute("SELECT name FROM pragma_table_info(?)", known).fetchall()
    columns = [name for (name,) in layout if not name.startswith("_")]
    chosen = ", ".join(map(quote, columns)) or "NULL"
    where, parameters = ("", ()) if run is None else (" WHERE _run = ?", (run,))
    if latest:
        return columns, connection.execute(f"SELECT {chosen} FROM {quote(known[0] + '_latest')}")
    rows = connection.execute(
        f"SELECT {chosen} FROM {quote(known[0])}{where} ORDER BY _rowid_", parameters
    )
    return columns, rows


def _explained(error: sqlite3.Error, seconds: float) -> StorageError:
    text = str(error)
    if text == "interrupted":
        return StorageError(f"the query took more than {seconds:g} s", hint="add a LIMIT")
    if "readonly" in text or "query_only" in text or "authoriz" in text:
        return StorageError("the database is read-only here", hint="only SELECT works")
    hint = "the public names are in `crawler sql --schema`" if "no such" in text else None
    return StorageError(f"SQL: {text}", hint=hint)
