"""One request of a large run, found without reading the others.

Owns: the questions that need private columns or indexes: by fingerprint, how many stand
before it, what its page led to, which items it gave. Does not own: connections
(`reading`), or what the answers mean.

Invariants: nothing is written; no question reads all requests of a run. Ids are given in
the order in which rows are stored, and a page's links are stored when it is settled: so
what a page led to is looked for among the rows of those seconds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

__all__ = ["count_ahead", "find_children", "find_request", "find_urls"]

SLACK_S = 0.5
"""Clocks are set back now and then, by little."""
MOST_CHILDREN = 100_000
"""Rows looked at for what a page led to."""


def find_request(
    connection: sqlite3.Connection, run: str, domains: Iterable[str], fingerprint: bytes
) -> int | None:
    """Id of the request with a fingerprint, in whichever of the domains; None: not seen."""
    row = connection.execute(
        "SELECT q.id FROM run CROSS JOIN domain d CROSS JOIN req q ON q.run = run.id"
        " AND q.domain = d.id AND q.fp = ?3 WHERE run.name = ?1"
        " AND d.name IN (SELECT value FROM json_each(?2))",
        (run, json.dumps(list(domains)), fingerprint),
    ).fetchone()
    return None if row is None else int(row[0])


def find_urls(
    connection: sqlite3.Connection, run: str, domains: Iterable[str], url: str, limit: int
) -> list[int]:
    """Ids of the requests of these domains whose URL is `url` or goes on from it.

    All methods, bodies and keys; exact ones first, then the oldest. Reads every row of the
    domains.
    """
    rows = connection.execute(
        "SELECT q.id FROM run CROSS JOIN domain d CROSS JOIN req q ON q.run = run.id"
        " AND q.domain = d.id WHERE run.name = ?1 AND d.name IN (SELECT value FROM json_each(?2))"
        " AND substr(q.url, 1, length(?3)) = ?3 ORDER BY q.url != ?3, q.id LIMIT ?4",
        (run, json.dumps(list(domains)), url, limit),
    )
    return [number for (number,) in rows]


def count_ahead(connection: sqlite3.Connection, request: int) -> int:
    """Queued requests of the same domain and run that go before a queued one."""
    (ahead,) = connection.execute(
        "SELECT (SELECT count(*) FROM req INDEXED BY req_ready WHERE run = q.run"
        " AND domain = q.domain AND state = 0 AND not_before IS NULL AND priority > q.priority)"
        " + (SELECT count(*) FROM req INDEXED BY req_ready WHERE run = q.run AND domain = q.domain"
        " AND state = 0 AND not_before IS NULL AND priority = q.priority AND id < q.id)"
        " FROM req q WHERE q.id = ?",
        (request,),
    ).fetchone()
    return int(ahead)


def find_children(
    connection: sqlite3.Connection, request: int, moments: Sequence[float]
) -> list[int]:
    """Ids of the requests that a page led to, those of its redirect included, oldest first.

    `moments` are the instants at which the page was settled, wall clock. Links that were
    refused before another page had them are found with the first page only.
    """
    found: dict[int, None] = {}
    (last,) = connection.execute("SELECT max(id) FROM req").fetchone()
    for moment in moments:
        first = _first_since(connection, moment - SLACK_S, last or 0)
        rows = connection.execute(
            "SELECT id, discovered_at, parent FROM req WHERE id >= ? ORDER BY id LIMIT ?",
            (first, MOST_CHILDREN),
        )
        for number, at, parent in rows:
            if at > moment + SLACK_S:
                break
            if parent == request:
                found[number] = None
    return list(found)


def _first_since(connection: sqlite3.Connection, instant: float, last: int) -> int:
    """The first id from which on rows were stored at `instant` or later, by halving."""
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        row: tuple[Any, ...] | None = connection.execute(
            "SELECT id, discovered_at FROM req WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= instant:
            high = middle
        else:
            low = row[0] + 1
    return low
