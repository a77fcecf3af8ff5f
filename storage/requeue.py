"""Settled requests queued again, by a process that has the database for itself.

Owns: what changes with such a row: its counters, its errors, its domain, its run.
Does not own: which rows (the caller asks a read-only connection), or running them.

Invariants: counters and tallies equal a count of the rows before and after each batch, and
a batch is one transaction, so that a death in between leaves whole rows only; what was
fetched stays in `fetch_log`; the rows of items stay, and are replaced in place when the
page comes again: by their key, or by request and ordinal.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, closing
from itertools import islice
from typing import TYPE_CHECKING

from storage import bulk
from storage.ledger import Ledger
from storage.lock import FileLock, is_held
from storage.records import RunState, State
from storage.schema import Tally
from storage.sqlite import open_writing
from storage.store import StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["queue_again"]

BATCH = 5_000
"""Rows of one transaction."""

_IDS = "(SELECT value FROM json_each(?2))"
_FOUND = (
    "SELECT json_group_array(json_array(id, domain, state, reason)) FROM req"
    f" WHERE run = ?1 AND state >= {State.DONE:d} AND id IN {_IDS}"
)
_QUEUE = (
    "UPDATE req SET state = 0, attempts = 0, reason = NULL, not_before = NULL,"
    f" finished_at = NULL WHERE run = ?1 AND id IN {_IDS}"
)
_PROBLEMS = (
    "SELECT json_group_array(json_array(id, request, domain, code)) FROM problem"
    " WHERE run = ?1 AND domain IN (SELECT value FROM json_each(?3)) AND request IN " + _IDS
)
_UNKEPT = (
    "SELECT json_array(coalesce((SELECT n FROM tally WHERE run = ?1 AND domain = ?2"
    f" AND kind = {Tally.ERROR:d} AND code = ?3), 0) - (SELECT count(*) FROM problem"
    " WHERE run = ?1 AND domain = ?2 AND code = ?3))"
)
_SHARED = (
    "SELECT json_group_array(json_array(id, domain, code)) FROM problem p WHERE run = ?1"
    " AND domain IN (SELECT value FROM json_each(?2)) AND request IS NULL AND NOT EXISTS"
    f" (SELECT 1 FROM req WHERE run = ?1 AND domain = p.domain AND state = {State.FAILED:d}"
    " AND reason = p.code)"
)


def queue_again(path: str | Path, run: str, requests: Iterable[int]) -> int:
    """Queue settled requests of a run again; how many were.

    Of `requests` (ids) those that are queued already, and those of other runs, stay as they
    are. The run is then interrupted, ended by `requeue`; with nothing to queue it stays as
    it was. Raises StorageError when another process has the database.
    """
    wanted, queued = iter(requests), 0
    with ExitStack() as stack:
        stack.callback(_locked(str(path)).close)
        connection = stack.enter_context(closing(open_writing(str(path))))
        number = _number(connection, run)
        domains: set[int] = set()
        while batch := list(islice(wanted, BATCH)):
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                met = _queue(connection, number, batch)
                queued += met.total()
                domains |= met.keys()
        if queued:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                _forgive(connection, number, domains)
    return queued


def _locked(path: str) -> FileLock:
    try:
        return FileLock.open(path)
    except StorageError as error:
        if not is_held(path):
            raise
        hint = f"`crawler set stop --db {path}` stops it in good order; then again"
        raise StorageError(str(error), hint=hint) from error


def _number(connection: sqlite3.Connection, run: str) -> int:
    row = connection.execute("SELECT id FROM run WHERE name = ?", (run,)).fetchone()
    if row is None:
        raise StorageError(f"there is no run {run}", hint="`crawler runs` lists them")
    return int(row[0])


def _queue(connection: sqlite3.Connection, run: int, batch: list[int]) -> Counter[int]:
    """Queue a batch; how many rows by domain."""
    found = bulk.read_one(connection, _FOUND, (run, json.dumps(batch)))
    if not found:
        return Counter()
    ids = json.dumps([request for request, *_ in found])
    ledger = Ledger()
    for _, domain, state, reason in found:
        place = (run, domain)
        ledger.queue(place, False)
        if state == State.DROPPED:
            ledger.take_back(place, reason)
        else:
            ledger.sums[place]["done" if state == State.DONE else "failed"] -= 1
            ledger.sums[place]["redirected"] -= (reason or "").startswith("redirected")
    _take_errors_back(connection, run, found, ids, ledger)
    connection.execute(_QUEUE, (run, ids))
    ledger.write(connection)
    connection.execute(
        "UPDATE run SET state = ?, ended_by = 'requeue' WHERE id = ?", (RunState.INTERRUPTED, run)
    )
    return Counter(domain for _, domain, *_ in found)


def _take_errors_back(
    connection: sqlite3.Connection,
    run: int,
    found: list[tuple[int, int, int, str | None]],
    ids: str,
    ledger: Ledger,
) -> None:
    """What is tried again has not failed: its problem rows go, and count no more."""
    domains = json.dumps(sorted({domain for _, domain, *_ in found}))
    problems = bulk.read_one(connection, _PROBLEMS, (run, ids, domains))
    _delete(connection, [number for number, *_ in problems])
    for _, _, domain, code in problems:
        _uncount(ledger, (run, domain), code, 1)
    told = {request for _, request, *_ in problems}
    silent = Counter(
        (domain, reason or "failed")
        for request, domain, state, reason in found
        if state == State.FAILED and request not in told
    )
    before = Counter((domain, code) for _, _, domain, code in problems)
    for (domain, code), n in silent.items():
        unkept = bulk.read_one(connection, _UNKEPT, (run, domain, code))[0] - before[domain, code]
        _uncount(ledger, (run, domain), code, min(n, max(0, unkept)))


def _forgive(connection: sqlite3.Connection, run: int, domains: set[int]) -> None:
    """Errors of whole domains of which no failed row is left, and what their pace was."""
    ids = json.dumps(sorted(domains))
    shared = bulk.read_one(connection, _SHARED, (run, ids))
    _delete(connection, [number for number, *_ in shared])
    ledger = Ledger()
    for _, domain, code in shared:
        _uncount(ledger, (run, domain), code, 1)
    ledger.write(connection)
    among = "run = ?1 AND domain IN (SELECT value FROM json_each(?2))"
    connection.execute(
        f"UPDATE run_domain SET state = 'ok', next_at = NULL WHERE {among}", (run, ids)
    )


def _uncount(ledger: Ledger, place: tuple[int, int], code: str, n: int) -> None:
    ledger.sums[place]["errors"] -= n
    ledger.tally(place, Tally.ERROR, code, -n)


def _delete(connection: sqlite3.Connection, problems: list[int]) -> None:
    connection.execute(
        "DELETE FROM problem WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(problems),)
    )
