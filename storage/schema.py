"""The SQLite schema, declared once as data: compact tables, and the views over them.

Owns: tables, indexes, views, what their integer codes mean, and how a file gets them
(sqlite-utils migrations, imported only when a file lacks something). Does not own: the
item tables (`tables`), nor any statement that changes rows.

Invariants: public names are views, and everything else may change between versions; no
view but `requests` and `fetches` reads the tables `req` and `fetch_log`, since counters
are kept in the same transactions as the rows they count; a file that is not ours is
never written to.
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum

from msgspec import Struct

from storage.records import RunState, State
from storage.store import StorageError

__all__ = [
    "CONNECT_ERRORS",
    "COUNTERS",
    "DECISIONS",
    "HTTP_VERSIONS",
    "PEAKS",
    "RESERVED",
    "Tally",
    "apply",
    "check",
    "is_reserved",
    "latest_view",
    "quote",
]

APPLICATION_ID = 0x706F6F6C
"""Marks a file as ours (PRAGMA application_id)."""
VERSION = 3
"""Of this schema (PRAGMA user_version)."""

DECISIONS = ("deliver", "redirect", "retry", "give-up", "robots")
"""Fetch decisions that are stored by their place here; others are stored as text."""
HTTP_VERSIONS = ("HTTP/1.1", "HTTP/2", "HTTP/1.0")
"""Stored by their place here, the first as NULL; others are stored as text."""
CONNECT_ERRORS = frozenset(
    {"dns", "connect-refused", "connect-timeout", "connect", "tls", "tls-timeout", "address"}
)
"""Error codes of fetches that ended before there was a connection to send on."""

COUNTERS = (
    "queued",
    "waiting",
    "done",
    "redirected",
    "failed",
    "dropped",
    "requests",
    "answered",
    "errors",
    "retries",
    "new_connections",
    "reused_connections",
    "bytes_received",
    "items",
    "duplicates",
    "wait_s",
    "connect_s",
    "ttfb_s",
    "total_s",
    "dns_s",
    "tls_s",
    "replays",
    "connect_failures",
)
"""What is counted per run and domain. `queued` includes sent and waiting rows, `done` the
redirected ones; `dns_s` and `tls_s` are of connections that were made, as `connect_s` is."""
PEAKS = ("connections", "peer_closes", "generation")
"""Of what a domain reports again and again, the maximum is kept."""


class Tally(IntEnum):
    """Kinds of the rows of `tally`: what `code` counts."""

    STATUS = 0
    ERROR = 1
    """Callback errors and final failures."""
    FETCH_ERROR = 2
    """Every attempt that failed on the wire, also when a later one succeeded."""
    DROP = 3
    TTFB = 4
    """`code` is b: time to first byte was below 2**b ms, and not below 2**(b-1) ms."""
    PAGES = 5
    """`code` is the minute since the epoch; of the whole run, `domain` is 0."""
    FAULTS = 6
    """As PAGES: errors per minute."""
    REPLACED = 7
    """`code` is an item table: rows of the run in it that a later item replaced; `domain` is
    0. Who follows a table learns by it that rows already read have changed."""


class Definition(Struct, frozen=True):
    """A table, index or view: its name, and the SQL after `CREATE <kind> <name>`."""

    kind: str
    name: str
    sql: str


def _words(column: str, words: type[IntEnum] | tuple[str, ...]) -> str:
    """SQL that turns a code into its word."""
    pairs = (
        enumerate(words)
        if isinstance(words, tuple)
        else ((int(code), code.name.lower()) for code in words)
    )
    cases = " ".join(f"WHEN {code} THEN '{word}'" for code, word in pairs)
    return f"CASE {column} {cases} ELSE {column} END"


def _tallied(kind: Tally, low: int, high: int) -> str:
    return (
        f"(SELECT coalesce(sum(n), 0) FROM tally t WHERE t.run = q.run AND t.domain = q.domain"
        f" AND t.kind = {kind:d} AND t.code BETWEEN {low} AND {high})"
    )


_REUSE = (
    "round(1.0 * {0}reused_connections / max({0}reused_connections + {0}new_connections, 1), 4)"
)
_HTTP_VERSION = _words("coalesce(f.http_version, iif(f.status IS NULL, NULL, 0))", HTTP_VERSIONS)
_SUMMED = (
    *("queued", "done", "redirected", "failed", "dropped", "requests", "retries", "errors"),
    *("items", "duplicates", "bytes_received", "new_connections", "reused_connections"),
)
"""Of a run's domains, in `v_runs`."""
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in _SUMMED)
_NOW = "(julianday('now') - 2440587.5) * 86400.0"

_COLUMNS = {
    "run_domain": (
        *("run INTEGER NOT NULL", "domain INTEGER NOT NULL"),
        *(f"{name} {'REAL' if name.endswith('_s') else 'INTEGER'} DEFAULT 0" for name in COUNTERS),
        *(f"{name} INTEGER NOT NULL DEFAULT 0" for name in PEAKS),
        *("state TEXT", "next_at REAL", "delay REAL", "concurrency INTEGER"),
    ),
    "fetch_log": (
        *("id INTEGER PRIMARY KEY", "run INTEGER NOT NULL", "request INTEGER", "domain INTEGER"),
        *("url TEXT", "attempt INTEGER", "status INTEGER", "error TEXT", "decision"),
        *("started_at REAL", "wait_s REAL", "connect_s REAL", "ttfb_s REAL", "total_s REAL"),
        *("bytes_received INTEGER", "reused INTEGER", "proxy TEXT", "dns_s REAL", "tls_s REAL"),
        *("peer TEXT", "http_version", "nth INTEGER", "generation INTEGER", "replays INTEGER"),
    ),
}
"""Of the tables that grow with versions: older files get the columns they lack."""

_NOTES = (
    Definition("INDEX", "fetch_log_request", "ON fetch_log(request) WHERE request IS NOT NULL"),
    Definition(
        "TABLE",
        "run_note",
        "(run INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, key))"
        " WITHOUT ROWID",
    ),
)
"""What version 3 added: the attempts of one request, and what commands keep about a run."""
TABLES = (
    Definition(
        "TABLE",
        "run",
        "(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, spider TEXT NOT NULL,"
        " state INTEGER NOT NULL, started_at REAL NOT NULL, finished_at REAL, seeded_at REAL,"
        " arguments TEXT NOT NULL, settings TEXT NOT NULL, code_hash TEXT NOT NULL,"
        " ended_by TEXT, stats TEXT NOT NULL DEFAULT '{}', pid INTEGER NOT NULL)",
    ),
    Definition(
        "TABLE",
        "domain",
        "(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner TEXT,"
        " epoch INTEGER NOT NULL DEFAULT 0, lease_until REAL)",
    ),
    Definition("INDEX", "domain_owner", "ON domain(owner) WHERE owner IS NOT NULL"),
    Definition(
        "TABLE",
        "req",
        "(id INTEGER PRIMARY KEY, run INTEGER NOT NULL, domain INTEGER NOT NULL,"
        " fp BLOB NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL,"
        " depth INTEGER NOT NULL, attempts INTEGER NOT NULL, not_before REAL,"
        " url TEXT NOT NULL, method TEXT, payload TEXT, parent INTEGER, redirect_of INTEGER,"
        " reason TEXT, discovered_at REAL NOT NULL, finished_at REAL,"
        " UNIQUE (run, domain, fp))",
    ),
    Definition(
        "INDEX",
        "req_ready",
        "ON req(run, domain, priority DESC, id) WHERE state = 0 AND not_before IS NULL",
    ),
    Definition(
        "INDEX",
        "req_waiting",
        "ON req(run, not_before, domain) WHERE state = 0 AND not_before IS NOT NULL",
    ),
    Definition("INDEX", "req_sent", "ON req(run, domain) WHERE state = 1"),
    Definition("INDEX", "req_origin", "ON req(run, domain) WHERE depth = 0"),
    Definition(
        "TABLE",
        "run_domain",
        f"({', '.join(_COLUMNS['run_domain'])}, PRIMARY KEY (run, domain)) WITHOUT ROWID",
    ),
    Definition("INDEX", "run_domain_queued", "ON run_domain(run, domain) WHERE queued > 0"),
    Definition("TABLE", "fetch_log", f"({', '.join(_COLUMNS['fetch_log'])})"),
    Definition(
        "TABLE",
        "problem",
        "(id INTEGER PRIMARY KEY, run INTEGER NOT NULL, request INTEGER, domain INTEGER,"
        " at REAL, code TEXT NOT NULL, message TEXT, detail TEXT)",
    ),
    Definition("INDEX", "problem_code", "ON problem(run, domain, code)"),
    Definition(
        "TABLE",
        "tally",
        "(run INTEGER NOT NULL, domain INTEGER NOT NULL, kind INTEGER NOT NULL,"
        " code NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (run, domain, kind, code))"
        " WITHOUT ROWID",
    ),
    Definition("TABLE", "item_table", "(name TEXT PRIMARY KEY COLLATE NOCASE, key TEXT)"),
    *_NOTES,
)

VIEWS = (
    Definition(
        "VIEW",
        "runs",
        f"AS SELECT name AS id, spider, {_words('state', RunState)} AS state, started_at,"
        " finished_at, seeded_at, arguments, settings, code_hash, ended_by,"
        " (SELECT value FROM run_note WHERE run = run.id AND key = 'command') AS command FROM run",
    ),
    Definition(
        "VIEW",
        "requests",
        f"AS SELECT q.id, run.name AS run, q.url, coalesce(q.method, 'GET') AS method,"
        f" domain.name AS domain, {_words('q.state', State)} AS state, q.reason, q.priority,"
        " q.depth, q.attempts, q.not_before, q.parent, q.redirect_of, q.discovered_at,"
        " q.finished_at, q.payload FROM req q JOIN run ON run.id = q.run"
        " JOIN domain ON domain.id = q.domain",
    ),
    Definition(
        "VIEW",
        "fetches",
        "AS SELECT f.id, run.name AS run, f.request, domain.name AS domain,"
        " coalesce(f.url, q.url) AS url, f.attempt, f.status, f.error,"
        f" {_words('f.decision', DECISIONS)} AS decision, f.started_at, f.wait_s, f.dns_s,"
        " f.connect_s, f.tls_s, f.ttfb_s,"
        " max(f.total_s - f.ttfb_s - coalesce(f.connect_s, 0.0), 0.0) AS body_s, f.total_s,"
        f" f.bytes_received, f.reused, f.nth, {_HTTP_VERSION} AS http_version, f.peer, f.proxy,"
        " coalesce(f.generation, 1) AS generation, coalesce(f.replays, 0) AS replays"
        " FROM fetch_log f JOIN run ON run.id = f.run LEFT JOIN domain ON domain.id = f.domain"
        " LEFT JOIN req q ON q.id = f.request",
    ),
    Definition(
        "VIEW",
        "domains",
        "AS SELECT run.name AS run, domain.name AS domain, coalesce(q.state, 'ok') AS state,"
        " q.queued, q.done, q.failed, q.dropped, q.waiting, q.next_at,"
        " coalesce(q.delay, 0.0) AS delay, coalesce(q.concurrency, 1) AS concurrency,"
        " q.requests, q.new_connections, q.reused_connections FROM run_domain q"
        " JOIN run ON run.id = q.run JOIN domain ON domain.id = q.domain",
    ),
    Definition(
        "VIEW",
        "v_runs",
        f"AS SELECT r.name AS id, r.spider, {_words('r.state', RunState)} AS state,"
        f" r.started_at, round(coalesce(r.finished_at, {_NOW}) - r.started_at, 3) AS seconds, "
        + ", ".join(f"coalesce(s.{name}, 0) AS {name}" for name in _SUMMED)
        + ", coalesce(s.done - s.redirected, 0) AS pages"
        f", coalesce({_REUSE.format('s.')}, 0.0) AS reuse,"
        " json_extract(r.stats, '$.clients_peak') AS clients_peak,"
        " json_extract(r.stats, '$.evictions') AS evictions, r.ended_by FROM run r"
        f" LEFT JOIN (SELECT run, {_SUMS} FROM run_domain GROUP BY run) s ON s.run = r.id",
    ),
    Definition(
        "VIEW",
        "v_domains",
        "AS SELECT run.name AS run, domain.name AS domain, coalesce(q.state, 'ok') AS state,"
        " q.queued, q.done, q.failed, q.dropped, q.next_at, coalesce(q.delay, 0.0) AS delay,"
        " coalesce(q.concurrency, 1) AS concurrency, q.requests, q.new_connections,"
        " q.reused_connections, q.bytes_received, q.retries, q.errors, q.items, "
        + ", ".join(
            f"{_tallied(Tally.STATUS, n * 100, n * 100 + 99)} AS s{n}xx" for n in (2, 3, 4, 5)
        )
        + ", q.ttfb_s / nullif(q.answered, 0) AS mean_ttfb_s FROM run_domain q"
        " JOIN run ON run.id = q.run JOIN domain ON domain.id = q.domain",
    ),
    Definition(
        "VIEW",
        "v_errors",
        "AS SELECT run.name AS run, domain.name AS domain, t.code, t.n AS count,"
        " p.at AS last_at, p.message, p.detail, q.url FROM tally t JOIN run ON run.id = t.run"
        " LEFT JOIN domain ON domain.id = t.domain"
        " LEFT JOIN problem p ON p.id = (SELECT max(id) FROM problem"
        " WHERE run = t.run AND domain = t.domain AND code = t.code)"
        f" LEFT JOIN req q ON q.id = p.request WHERE t.kind = {Tally.ERROR:d}"
        " AND t.n > 0",
    ),
    Definition(
        "VIEW",
        "v_problems",
        "AS SELECT p.id, run.name AS run, p.request, domain.name AS domain, p.at, p.code,"
        f" p.message, p.detail, q.url, {_words('q.state', State)} AS state FROM problem p"
        " JOIN run ON run.id = p.run LEFT JOIN domain ON domain.id = p.domain"
        " LEFT JOIN req q ON q.id = p.request",
    ),
    Definition(
        "VIEW",
        "v_queue",
        "AS SELECT run.name AS run, domain.name AS domain, q.queued, q.waiting, q.next_at"
        " FROM run CROSS JOIN run_domain q INDEXED BY run_domain_queued ON q.run = run.id"
        " JOIN domain ON domain.id = q.domain WHERE q.queued > 0",
    ),
    Definition(
        "VIEW",
        "v_pools",
        "AS SELECT run.name AS run, domain.name AS domain,"
        " coalesce(q.concurrency, 1) AS concurrency, q.connections, q.generation AS clients,"
        f" q.requests, q.new_connections, q.reused_connections, {_REUSE.format('q.')} AS reuse,"
        " round(1.0 + 1.0 * q.reused_connections / nullif(q.new_connections, 0), 2)"
        " AS requests_per_connection, q.replays, q.peer_closes, q.connect_failures,"
        " nullif(q.dns_s, 0) / nullif(q.new_connections, 0) AS mean_dns_s,"
        " q.connect_s / nullif(q.new_connections, 0) AS mean_connect_s,"
        " nullif(q.tls_s, 0) / nullif(q.new_connections, 0) AS mean_tls_s,"
        " q.ttfb_s / nullif(q.answered, 0) AS mean_ttfb_s,"
        " q.wait_s / q.requests AS mean_wait_s, q.bytes_received FROM run_domain q"
        " JOIN run ON run.id = q.run JOIN domain ON domain.id = q.domain"
        " WHERE q.requests > 0",
    ),
    Definition(
        "VIEW",
        "v_slowest",
        "AS SELECT run.name AS run, domain.name AS domain, q.requests,"
        " q.ttfb_s / q.answered AS mean_ttfb_s, q.total_s / q.requests AS mean_total_s"
        " FROM run_domain q JOIN run ON run.id = q.run JOIN domain ON domain.id = q.domain"
        " WHERE q.answered > 0 ORDER BY mean_ttfb_s DESC",
    ),
    Definition(
        "VIEW",
        "v_statuses",
        "AS SELECT run.name AS run, domain.name AS domain, t.code AS status, t.n AS count"
        " FROM tally t JOIN run ON run.id = t.run JOIN domain ON domain.id = t.domain"
        f" WHERE t.kind = {Tally.STATUS:d}",
    ),
    Definition(
        "VIEW",
        "v_latency",
        "AS SELECT run.name AS run, domain.name AS domain, 1 << t.code AS below_ms,"
        " t.n AS count FROM tally t JOIN run ON run.id = t.run"
        f" JOIN domain ON domain.id = t.domain WHERE t.kind = {Tally.TTFB:d}",
    ),
    Definition(
        "VIEW",
        "v_phases",
        "AS SELECT run.name AS run, sum(q.wait_s) AS wait_s, sum(q.connect_s) AS connect_s,"
        " sum(q.ttfb_s) AS ttfb_s,"
        " max(sum(q.total_s) - sum(q.connect_s) - sum(q.ttfb_s), 0.0) AS body_s,"
        " sum(q.total_s) AS total_s FROM run_domain q JOIN run ON run.id = q.run"
        " GROUP BY run.id",
    ),
    Definition(
        "VIEW",
        "v_drops",
        "AS SELECT run.name AS run, domain.name AS domain, t.code AS reason, t.n AS count"
        " FROM tally t JOIN run ON run.id = t.run JOIN domain ON domain.id = t.domain"
        f" WHERE t.kind = {Tally.DROP:d} AND t.n > 0",
    ),
    Definition(
        "VIEW",
        "v_throughput",
        "AS SELECT run.name AS run, t.code * 60 AS minute_at,"
        f" sum(CASE t.kind WHEN {Tally.PAGES:d} THEN t.n ELSE 0 END) AS pages,"
        f" sum(CASE t.kind WHEN {Tally.FAULTS:d} THEN t.n ELSE 0 END) AS errors"
        " FROM run CROSS JOIN tally t ON t.run = run.id AND t.domain = 0"
        f" AND t.kind IN ({Tally.PAGES:d}, {Tally.FAULTS:d}) GROUP BY run.id, t.code",
    ),
)

RESERVED = frozenset(definition.name for definition in (*TABLES, *VIEWS))


def is_reserved(name: str) -> bool:
    """True for names that an item table cannot have, in any case of letters."""
    lowered = name.lower()
    return not name or lowered in RESERVED or lowered.startswith(("v_", "sqlite_", "_"))


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def latest_view(name: str, key: str | None) -> str:
    """Makes the view of an item table's newest rows: over all runs by key, else of the last
    run that has any."""
    table = quote(name)
    if key:
        # Newest run first, each row only while no newer run has its key: nothing is sorted,
        # and the first rows come at once.
        rows = (
            f"SELECT t.* FROM run r CROSS JOIN {table} t ON t._run = r.name WHERE NOT EXISTS"
            f" (SELECT 1 FROM run n CROSS JOIN {table} u ON u._run = n.name"
            f" AND u.{quote(key)} = t.{quote(key)} WHERE n.id > r.id) ORDER BY r.id DESC"
        )
    else:
        rows = (
            f"SELECT * FROM {table} WHERE _run = (SELECT name FROM run WHERE EXISTS (SELECT 1"
            f" FROM {table} t WHERE t._run = run.name) ORDER BY id DESC LIMIT 1)"
        )
    return f"CREATE VIEW {quote(f'{name}_latest')} AS {rows}"


def check(connection: sqlite3.Connection, path: str) -> int:
    """The schema version of an open file; 0: it is empty. Raises StorageError if not ours."""
    try:
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise StorageError(
            f"{path} cannot be read as a database: {error}", hint="choose another file with --db"
        ) from error
    if owner != APPLICATION_ID and objects:
        raise StorageError(
            f"{path} is a database of another program", hint="choose another file with --db"
        )
    if version > VERSION:
        raise StorageError(
            f"{path} was written by a newer version (schema {version}, known: {VERSION})",
            hint="upgrade this installation",
        )
    return int(version) if owner == APPLICATION_ID else 0


def apply(connection: sqlite3.Connection, path: str) -> None:
    """Bring a file up to this schema. Raises StorageError if it is not ours."""
    if check(connection, path) == VERSION:
        return
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("storage")

    @migrations(name="0001-tables")
    def _(database: Database) -> None:
        for definition in TABLES:
            _create(database.conn, definition)

    @migrations(name="0002-pool-statistics")
    def _(database: Database) -> None:
        _add_columns(database.conn)
        _count_connect_failures(database.conn)

    @migrations(name="0003-notes")
    def _(database: Database) -> None:
        for definition in _NOTES:
            _create(database.conn, definition)

    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrations.apply(Database(connection, execute_plugins=False, recursive_triggers=False))
    connection.execute("BEGIN")
    for view in VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS {view.name}")
        _create(connection, view)
    for name, key in connection.execute("SELECT name, key FROM item_table").fetchall():
        connection.execute(f"DROP VIEW IF EXISTS {quote(f'{name}_latest')}")
        connection.execute(latest_view(name, key))
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _add_columns(connection: sqlite3.Connection) -> None:
    """Give the tables of an older file the columns they lack."""
    for table, columns in _COLUMNS.items():
        have = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        for column in columns:
            if column.partition(" ")[0] not in have:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _count_connect_failures(connection: sqlite3.Connection) -> None:
    """Runs of version 1 counted them by code only."""
    codes = ", ".join(f"'{code}'" for code in sorted(CONNECT_ERRORS))
    connection.execute(
        "UPDATE run_domain SET connect_failures = t.n FROM (SELECT run, domain, sum(n) AS n"
        f" FROM tally WHERE kind = {Tally.FETCH_ERROR:d} AND code IN ({codes})"
        " GROUP BY run, domain) t WHERE t.run = run_domain.run AND t.domain = run_domain.domain"
    )


def _create(connection: sqlite3.Connection, definition: Definition) -> None:
    connection.execute(f"CREATE {definition.kind} IF NOT EXISTS {definition.name} {definition.sql}")
