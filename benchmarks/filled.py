"""A large database in seconds: rows made by SQL, with counters that fit them.

Owns: what such a file holds. Does not own: the schema, which storage makes.

Invariants: the same size gives the same rows; every counter and tally is counted from the
rows; fingerprints are those of the URLs, so that a URL is found as in a real file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from crawler.urls import canonicalise
from storage import Column, RunSpec, RunState, Table
from storage.schema import Tally
from storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["STARTED_AT", "fill", "url_of"]

STARTED_AT = 1_700_000_000.0
EARLIER = 10
"""One request in so many is of an earlier run."""

_NUMBERS = "WITH RECURSIVE n(i, h) AS (SELECT 1, 20 UNION ALL SELECT i + 1,"
_NUMBERS += " (i + 1) * 2654435761 / 128 % 1000 FROM n WHERE i < {rows})"
_URL = "'http://' || host(i % :domains + 1) || '/page/' || i"
_STATE = "CASE WHEN h < 900 THEN 2 WHEN h < 940 THEN 0 WHEN h < 970 THEN 3 ELSE 4 END"
_REASON = (
    "CASE WHEN h / 10 = 89 THEN 'redirected' WHEN h < 940 THEN NULL"
    " WHEN h / 10 = 94 THEN 'http-404' WHEN h / 10 = 95 THEN 'read-timeout'"
    " WHEN h / 10 = 96 THEN 'callback' WHEN h / 10 = 97 THEN 'robots' ELSE 'scope' END"
)
_FILL = (
    "INSERT INTO domain (id, name, epoch) {domains} SELECT i, host(i), 1 FROM n",
    "INSERT INTO req {requests} SELECT i, iif(h % {earlier} = 0, 1, 2), i % :domains + 1,"
    " fingerprint(" + _URL + "), " + _STATE + ", 0, min(i / 100, 5), h < 970,"
    " iif(h = 920, {at} + 1e9, NULL), "
    + _URL
    + ", NULL, NULL, nullif(i / 20, 0), NULL, "
    + _REASON
    + ", {at} + i * 0.001, iif(h BETWEEN 900 AND 939, NULL, {at} + i * 0.002)"
    " FROM n",
    "INSERT INTO fetch_log (run, request, domain, attempt, status, error, decision, started_at,"
    " wait_s, connect_s, ttfb_s, total_s, bytes_received, reused, nth)"
    " SELECT run, id, domain, 1,"
    " CASE WHEN reason = 'read-timeout' THEN NULL WHEN reason = 'http-404' THEN 404"
    " WHEN reason = 'redirected' THEN 301 ELSE 200 END,"
    " iif(reason = 'read-timeout', reason, NULL),"
    " CASE WHEN reason = 'redirected' THEN 1 WHEN state = 3 AND reason != 'callback' THEN 3"
    " ELSE 0 END, {at} + id * 0.002, 0.1, iif(id % 50 = 0, 0.02, NULL),"
    " iif(reason = 'read-timeout', NULL, 0.001 * (id % 700)), 0.001 * (id % 900), 20000,"
    " id % 50 > 0, id % 50 + 1 FROM req",
    "INSERT INTO problem (run, request, domain, at, code, message, detail)"
    " SELECT run, id, domain, finished_at, reason, 'what was said of page ' || id,"
    " iif(reason = 'callback', 'File \"spiders/books.py\", line 9, in parse', NULL)"
    " FROM req WHERE state = 3",
    "INSERT INTO run_domain (run, domain, queued, waiting, done, redirected, failed, dropped,"
    " delay, concurrency, state, next_at)"
    " SELECT run, domain, sum(state = 0), count(not_before), sum(state = 2),"
    " sum(state = 2 AND reason IS 'redirected'), sum(state = 3), sum(state = 4), 0.5, 4, 'ok',"
    " {at} FROM req GROUP BY run, domain",
    "UPDATE run_domain SET requests = f.n, answered = f.answered, new_connections = f.fresh,"
    " reused_connections = f.n - f.fresh, bytes_received = f.bytes, wait_s = f.wait_s,"
    " connect_s = f.connect_s, ttfb_s = f.ttfb_s, total_s = f.total_s, connections = 4,"
    " generation = 1, errors = failed, items = done FROM (SELECT run, domain, count(*) AS n,"
    " count(ttfb_s) AS answered, sum(reused = 0) AS fresh, sum(bytes_received) AS bytes,"
    " sum(wait_s) AS wait_s, coalesce(sum(connect_s), 0) AS connect_s,"
    " coalesce(sum(ttfb_s), 0) AS ttfb_s, sum(total_s) AS total_s FROM fetch_log"
    " GROUP BY run, domain) f WHERE f.run = run_domain.run AND f.domain = run_domain.domain",
    "INSERT INTO tally SELECT run, domain, {status}, status, count(*) FROM fetch_log"
    " WHERE status IS NOT NULL GROUP BY run, domain, status",
    "INSERT INTO tally SELECT run, domain, {fetch_error}, error, count(*) FROM fetch_log"
    " WHERE error IS NOT NULL GROUP BY run, domain, error",
    "INSERT INTO tally SELECT run, domain, {error}, code, count(*) FROM problem"
    " GROUP BY run, domain, code",
    "INSERT INTO tally SELECT run, domain, {drop}, reason, count(*) FROM req WHERE state = 4"
    " GROUP BY run, domain, reason",
    "INSERT INTO tally SELECT run, domain, {ttfb}, bucket(CAST(ttfb_s * 1000 AS INT)),"
    " count(*) FROM fetch_log WHERE ttfb_s IS NOT NULL GROUP BY 1, 2, 4",
    "INSERT INTO tally SELECT run, 0, {pages}, CAST(finished_at / 60 AS INT), count(*) FROM req"
    " WHERE state = 2 GROUP BY 1, 4",
    "INSERT INTO tally SELECT run, 0, {faults}, CAST(at / 60 AS INT), count(*) FROM problem"
    " GROUP BY 1, 4",
    "INSERT INTO book (url, title, price, _run, _request, _ordinal) {items}"
    " SELECT 'http://shop.example/' || (i / 2), 'Book ' || i, i * 0.01, iif(i % 2, 'books-2',"
    " 'books-1'), i, 0 FROM n",
    "INSERT INTO quote (text, _run, _request, _ordinal) {items}"
    " SELECT 'Quote ' || i, iif(i % {earlier} = 0, 'books-1', 'books-2'), i, 0 FROM n",
)


def url_of(number: int, domains: int) -> str:
    """The URL of a request by its id."""
    return f"http://{_host(number % domains + 1)}/page/{number}"


def fill(path: Path, *, requests: int, domains: int, items: int) -> None:
    """Write a new database: `requests` in two runs, each with an attempt on the wire."""
    asyncio.run(_prepare(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1048576"):
            connection.execute(f"PRAGMA {pragma}").fetchone()
        connection.create_function("host", 1, _host, deterministic=True)
        connection.create_function("fingerprint", 1, _fingerprint, deterministic=True)
        connection.create_function("bucket", 1, int.bit_length, deterministic=True)
        places = {
            "requests": _NUMBERS.format(rows=requests),
            "domains": _NUMBERS.format(rows=domains),
            "items": _NUMBERS.format(rows=items),
            "at": STARTED_AT,
            "earlier": EARLIER,
            **{kind.name.lower(): int(kind) for kind in Tally},
        }
        connection.execute("BEGIN")
        for statement in _FILL:
            connection.execute(statement.format(**places), {"domains": domains})
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()


async def _prepare(path: Path) -> None:
    store = await SqliteStore.open(path)
    columns = (Column(name="url"), Column(name="title"), Column(name="price", type="REAL"))
    await store.declare(Table(name="book", columns=columns, key="url"))
    await store.declare(Table(name="quote", columns=(Column(name="text"),)))
    for day, state in enumerate((RunState.FINISHED, RunState.INTERRUPTED)):
        run = await store.begin(RunSpec(spider="books", started_at=STARTED_AT + day))
        await store.end(run.id, state, at=STARTED_AT + 2_000, ended_by=state.name.lower())
    await store.aclose()


def _host(number: int) -> str:
    return f"host-{number:06}.example"


def _fingerprint(url: str) -> bytes:
    return canonicalise(url).fingerprint
