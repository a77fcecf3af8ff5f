"""What the writer does between groups: runs, leases, waking, failing a domain.

Owns: one function per job, each called inside a transaction of its own.
Does not own: the transaction, or any page.

Invariants: a claim raises the epoch; counters change with the rows they count.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import msgspec

from storage import bulk
from storage.ledger import Ledger
from storage.records import Claim, RunRow, RunState, State, Woken
from storage.schema import Tally
from storage.store import LEASE_S, StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from storage.records import RunSpec

__all__ = [
    "begin",
    "claim",
    "end",
    "fail_domain",
    "note",
    "read_notes",
    "read_runs",
    "recover",
    "release",
    "renew",
    "resume",
    "wake",
]

_RUN = ", ".join(f"'{name}', {name}" for name in RunRow.__struct_fields__)
_DUE = (
    "state = 0 AND not_before IS NOT NULL AND not_before <= ?1"
    " AND run IN (SELECT value FROM json_each(?2))"
)


def read_runs(connection: sqlite3.Connection, where: str = "1") -> list[RunRow]:
    """Runs that match, oldest first."""
    (found,) = connection.execute(
        f"SELECT json_group_array(json_object({_RUN})) FROM"
        f" (SELECT * FROM run WHERE {where} ORDER BY id)"
    ).fetchone()
    return msgspec.json.decode(found, type=list[RunRow])


def recover(connection: sqlite3.Connection) -> None:
    """Clear what a dead process left: running runs are interrupted, leases are over."""
    last_minute = (
        "(SELECT max(code) * 60.0 + 60.0 FROM tally WHERE run = run.id AND domain = 0"
        f" AND kind IN ({Tally.PAGES:d}, {Tally.FAULTS:d}))"
    )
    connection.execute(
        f"UPDATE run SET state = ?, ended_by = 'crash',"
        f" finished_at = max(started_at, coalesce({last_minute}, started_at)) WHERE state = ?",
        (RunState.INTERRUPTED, RunState.RUNNING),
    )
    connection.execute("UPDATE domain SET owner = NULL WHERE owner IS NOT NULL")


def begin(connection: sqlite3.Connection, spec: RunSpec) -> RunRow:
    """Insert a run under the next free name."""
    (n,) = connection.execute(
        "SELECT coalesce(max(CAST(substr(name, length(spider) + 2) AS INTEGER)), 0) + 1"
        " FROM run WHERE spider = ?",
        (spec.spider,),
    ).fetchone()
    cursor = connection.execute(
        "INSERT INTO run (name, spider, state, started_at, arguments, settings, code_hash, pid)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(f"{spec.spider}-{n}", spec.spider, RunState.RUNNING, spec.started_at),
            *(spec.arguments, spec.settings, spec.code_hash, spec.pid),
        ),
    )
    return _run(connection, cursor.lastrowid or 0)


def resume(
    connection: sqlite3.Connection, run: int, settings: str, code_hash: str, pid: int
) -> RunRow:
    """Put a run back to RUNNING; what was sent and never settled has failed as `unknown`."""
    _run(connection, run)
    connection.execute(
        "UPDATE run SET state = ?, finished_at = NULL, ended_by = NULL, settings = ?,"
        " code_hash = ?, pid = ? WHERE id = ?",
        (RunState.RUNNING, settings, code_hash, pid, run),
    )
    _fail(connection, run, "state = 1", "unknown", "sent, and the process died", time.time())
    return _run(connection, run)


def end(
    connection: sqlite3.Connection, run: int, state: RunState, at: float, by: str, stats: str
) -> None:
    """Close a run's session."""
    connection.execute(
        "UPDATE run SET state = ?, finished_at = ?, ended_by = ?, stats = ? WHERE id = ?",
        (state, at, by, stats, run),
    )


def note(connection: sqlite3.Connection, run: int, key: str, value: str | None) -> None:
    """Keep a value about a run under a key, instead of the one before; None: keep none."""
    if value is None:
        connection.execute("DELETE FROM run_note WHERE run = ? AND key = ?", (run, key))
        return
    connection.execute(
        "INSERT INTO run_note VALUES (?, ?, ?) ON CONFLICT (run, key) DO UPDATE SET value = ?3",
        (run, key, value),
    )


def read_notes(connection: sqlite3.Connection, run: int) -> dict[str, str]:
    """What is kept about a run, by key."""
    return dict(
        connection.execute("SELECT key, value FROM run_note WHERE run = ?", (run,)).fetchall()
    )


def claim(
    connection: sqlite3.Connection, worker: str, runs: Collection[int], limit: int, now: float
) -> list[Claim]:
    """Grant domains with queued rows, those with ready rows first."""
    found = bulk.read_one(
        connection,
        "SELECT json_group_array(json_array(id, name, epoch + 1)) FROM"
        " (SELECT d.id, d.name, d.epoch FROM run_domain q"
        " INDEXED BY run_domain_queued JOIN domain d ON d.id = q.domain"
        " WHERE q.run IN (SELECT value FROM json_each(?)) AND q.queued > 0"
        " AND (d.owner IS NOT ? OR d.lease_until <= ?)"
        " GROUP BY d.id ORDER BY min(q.queued = q.waiting), d.id LIMIT ?)",
        (json.dumps(list(runs)), worker, now, limit),
    )
    lease_until = now + LEASE_S
    bulk.write(
        connection,
        "UPDATE domain SET epoch = v.column2, owner = v.column3, lease_until = v.column4"
        " FROM :rows v WHERE domain.id = v.column1",
        [(domain, epoch, worker, lease_until) for domain, _, epoch in found],
    )
    return [Claim(domain=name, epoch=epoch, lease_until=lease_until) for _, name, epoch in found]


def renew(connection: sqlite3.Connection, worker: str, now: float) -> None:
    """Extend every lease that `worker` has."""
    connection.execute("UPDATE domain SET lease_until = ? WHERE owner = ?", (now + LEASE_S, worker))


def release(connection: sqlite3.Connection, worker: str, domains: Iterable[str]) -> None:
    """Give up leases."""
    connection.execute(
        "UPDATE domain SET owner = NULL, lease_until = NULL WHERE owner = ?"
        " AND name IN (SELECT value FROM json_each(?))",
        (worker, json.dumps(list(domains))),
    )


def wake(connection: sqlite3.Connection, runs: Collection[int], now: float) -> Woken:
    """Make due rows ready."""
    ids = json.dumps(list(runs))
    due = bulk.read_one(
        connection,
        "SELECT json_group_array(json_array(w.run, w.domain, d.name, w.n)) FROM"
        f" (SELECT run, domain, count(*) AS n FROM req WHERE {_DUE} GROUP BY run, domain) w"
        " JOIN domain d ON d.id = w.domain",
        (now, ids),
    )
    if due:
        ledger = Ledger()
        connection.execute(f"UPDATE req SET not_before = NULL WHERE {_DUE}", (now, ids))
        for run, domain, _, n in due:
            ledger.sums[run, domain]["waiting"] -= n
        ledger.write(connection)
    (next_at,) = connection.execute(
        "SELECT min(next_at) FROM (SELECT (SELECT min(not_before) FROM req WHERE run = value"
        " AND state = 0 AND not_before IS NOT NULL) AS next_at FROM json_each(?))",
        (ids,),
    ).fetchone()
    return Woken(ready=tuple((run, name) for run, _, name, _ in due), next_at=next_at)


def fail_domain(
    connection: sqlite3.Connection,
    run: int,
    domain: str,
    epoch: int,
    reason: str,
    message: str,
    at: float,
) -> int:
    """Fail every queued row of a domain; 0 when the epoch is stale."""
    row = connection.execute(
        "SELECT id FROM domain WHERE name = ? AND epoch = ?", (domain, epoch)
    ).fetchone()
    if row is None:
        return 0
    ready = f"domain = {row[0]:d} AND state = 0 AND not_before IS NULL"
    waiting = f"domain = {row[0]:d} AND state = 0 AND not_before IS NOT NULL"
    return _fail(connection, run, f"({ready} OR {waiting})", reason, message, at)


def _fail(
    connection: sqlite3.Connection,
    run: int,
    which: str,
    reason: str,
    message: str,
    at: float,
) -> int:
    """Fail rows of a run with one problem row per domain; the number failed."""
    found = bulk.read_one(
        connection,
        "SELECT json_group_array(json_array(domain, n, waiting)) FROM (SELECT domain,"
        " count(*) AS n, count(not_before) AS waiting FROM req"
        f" WHERE run = ? AND {which} GROUP BY domain)",
        (run,),
    )
    connection.execute(
        "UPDATE req SET state = ?, reason = ?, not_before = NULL, finished_at = ?"
        f" WHERE run = ? AND {which}",
        (State.FAILED, reason, at, run),
    )
    ledger = Ledger()
    for domain, n, waiting in found:
        place = (run, domain)
        ledger.queue(place, False, -n)
        ledger.sums[place]["waiting"] -= waiting
        ledger.sums[place]["failed"] += n
        ledger.problem(place, reason, at)
        connection.execute(
            "INSERT INTO problem (run, domain, at, code, message) VALUES (?, ?, ?, ?, ?)",
            (run, domain, at, reason, message),
        )
    ledger.write(connection)
    return sum(n for _, n, _ in found)


def _run(connection: sqlite3.Connection, run: int) -> RunRow:
    found = read_runs(connection, f"id = {run:d}")
    if not found:
        raise StorageError(f"there is no run {run}", hint="crawler runs")
    return found[0]
