"""What a run came to, read from the public views.

Owns: which facts a summary has, and how they are asked for. Does not own: counting (the
views of storage do), how they are told (`report`), what they mean (`diagnosis`).

Invariants: a summary is made of public names only, so any process can make it at any
time; a file of an older version gives what it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from crawler.errors import UsageError
from crawler.settings import DomainSettings, PoolSettings, Settings
from crawler.settings_groups import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Busiest", "Failure", "Source", "Summary", "percentiles", "summarise"]


SHARES = (0.5, 0.95, 0.99)
"""Of the answers, for `Summary.latency`."""


class Source(Protocol):
    """What a summary is read from: storage's read side."""

    def query(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Column names and rows of one SELECT."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Errors of one code, over all domains."""

    code: str
    count: int
    domain: str
    """The domain with most of them; empty: none."""
    message: str
    """The latest; empty: none is kept."""
    url: str = ""
    """Of the latest; empty: it was about no request."""
    detail: str = ""
    """The user's frames of the latest one's traceback; empty: it has none."""

    @property
    def cause(self) -> str:
        """What lies below a code that only says that a domain was given up; else empty."""
        return self.message.partition(":")[0] if self.code == "domain-unreachable" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busiest:
    """The domain that was asked most."""

    domain: str
    requests: int
    delay: float
    """Seconds between starts, as learned or set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run at one moment, as its views tell it."""

    run: str
    spider: str
    state: str
    ended_by: str
    """Why the last session stopped; empty: it runs, or nobody knows."""
    seconds: float
    pages: int
    """Delivered; redirects are not among them."""
    done: int
    """Requests done, redirects included."""
    queued: int
    failed: int
    dropped: int
    requests: int
    retries: int
    errors: int
    items: int
    duplicates: int
    bytes_received: int
    new_connections: int
    reused_connections: int
    """Requests that found an open connection."""
    reuse: float
    """Their share of the requests that had a connection, 0 to 1."""
    clients_peak: int
    evictions: int
    arguments: str = "{}"
    """What the run is found again by: JSON."""
    tables: tuple[tuple[str, int], ...] = ()
    """Items by table."""
    failures: tuple[Failure, ...] = ()
    """Most frequent code first."""
    drops: tuple[tuple[str, int], ...] = ()
    """Dropped URLs by reason."""
    statuses: tuple[tuple[str, int], ...] = ()
    """Answers by class of status: 2xx, 3xx, 4xx, 5xx."""
    domains: int = 0
    unreachable: tuple[str, ...] = ()
    """Domains that were given up."""
    slowest: tuple[str, float] | None = None
    """Domain with the highest mean time to first byte, seconds; None: nothing answered."""
    busiest: Busiest | None = None
    latency: tuple[float, ...] = ()
    """Seconds within which 50, 95 and 99 % of the first bytes came; empty: nothing answered."""
    best_minute: int = 0
    """Pages in the best minute."""
    waits_for: tuple[str, float] | None = None
    """Domain that queued requests wait for, and until when (wall clock); None: nothing waits."""
    unverified: tuple[str, ...] = ()
    """Domains that were asked and whose certificates, if they had any, were not checked."""
    connections: int = 0
    """Most connections open at once to each domain, summed up."""
    peer_closes: int = 0
    """Idle connections that servers closed."""
    keepalive: float = PoolSettings.keepalive
    """The run's pool.keepalive, seconds."""
    sockets: int | None = None
    """The run's pool.sockets; None: not set."""

    @property
    def carried(self) -> int:
        """Requests that had a connection: what was never sent is not among them."""
        return self.new_connections + self.reused_connections


def summarise(source: Source, run: str) -> Summary:
    """Read the summary of a run, e.g. `books-3`. Raises UsageError for an unknown one."""
    rows = _records(source, "SELECT * FROM v_runs WHERE id = ?", run)
    if not rows:
        raise UsageError(f"no run `{run}` in this database", hint="`crawler runs` lists them")
    (facts,) = rows
    facts["run"] = facts.pop("id")
    facts = {name: facts[name] for name in Summary.__dataclass_fields__ if name in facts}
    for name in ("clients_peak", "evictions"):
        facts[name] = facts[name] or 0
    facts["ended_by"] = facts["ended_by"] or ""
    arguments, given = _given(source, run)
    return Summary(
        **facts,
        **_domain_facts(source, run),
        **_pool_facts(source, run),
        arguments=arguments,
        latency=percentiles(_buckets(source, run), SHARES),
        keepalive=given.get("pool.keepalive", PoolSettings.keepalive),
        sockets=given.get("pool.sockets"),
        unverified=_unverified(source, run, given),
        tables=_tables(source, run),
        failures=_failures(source, run),
        drops=_pairs(
            source,
            "SELECT reason, sum(count) FROM v_drops WHERE run = ?"
            " GROUP BY reason ORDER BY 2 DESC, 1",
            run,
        ),
        best_minute=_one(
            source, "SELECT coalesce(max(pages), 0) FROM v_throughput WHERE run = ?", run
        ),
    )


def _domain_facts(source: Source, run: str) -> dict[str, Any]:
    (row,) = _records(source, "SELECT count(*) AS n FROM v_domains WHERE run = ?", run)
    domains = row["n"]
    busiest = _records(
        source,
        "SELECT domain, requests, delay FROM v_domains WHERE run = ? AND requests > 0"
        " ORDER BY requests DESC, domain LIMIT 1",
        run,
    )
    slowest = _pairs(source, "SELECT domain, mean_ttfb_s FROM v_slowest WHERE run = ? LIMIT 1", run)
    waits = _pairs(
        source,
        "SELECT domain, next_at FROM v_queue WHERE run = ? AND next_at IS NOT NULL"
        " ORDER BY next_at LIMIT 1",
        run,
    )
    dead = _pairs(
        source,
        "SELECT domain, failed FROM v_domains WHERE run = ? AND state IN ('dead', 'unreachable')"
        " ORDER BY failed DESC, domain LIMIT 1000",
        run,
    )
    return {
        "domains": domains,
        "statuses": _statuses(source, run),
        "busiest": Busiest(**busiest[0]) if busiest else None,
        "slowest": slowest[0] if slowest else None,
        "waits_for": waits[0] if waits else None,
        "unreachable": tuple(domain for domain, _ in dead),
    }


def _given(source: Source, run: str) -> tuple[str, dict[str, Any]]:
    """The run's arguments, and its own settings as of the last time it was gone on with."""
    (row,) = _records(source, "SELECT arguments, settings FROM runs WHERE id = ?", run)
    given: dict[str, Any] = msgspec.json.decode(row["settings"])
    return row["arguments"], given


def _statuses(source: Source, run: str) -> tuple[tuple[str, int], ...]:
    """Answers by class of status; none in an older file."""
    if not _has(source, "v_statuses"):
        return ()
    sql = (
        "SELECT (status / 100) || 'xx', sum(count) FROM v_statuses WHERE run = ?"
        " AND status >= 200 GROUP BY 1 ORDER BY 1"
    )
    return _pairs(source, sql, run)


def _has(source: Source, view: str) -> bool:
    """False in a file of an older version."""
    return bool(source.query("SELECT 1 FROM sqlite_master WHERE name = ?", (view,))[1])


def _buckets(source: Source, run: str) -> tuple[tuple[int, int], ...]:
    """Upper bound in ms and number of answers, shortest first; none in an older file."""
    sql = (
        "SELECT below_ms, sum(count) FROM v_latency WHERE run = ? GROUP BY below_ms"
        " ORDER BY below_ms"
    )
    return _pairs(source, sql, run) if _has(source, "v_latency") else ()


def percentiles(buckets: Sequence[tuple[int, int]], shares: Sequence[float]) -> tuple[float, ...]:
    """Seconds within which these shares of the answers came, evened out inside a bucket.

    `buckets`: upper bound in ms and number of answers, shortest first; each reaches down to
    half its bound. Empty: nothing answered.
    """
    total = sum(number for _, number in buckets)
    if not total:
        return ()
    found = []
    for wanted in (part * total for part in shares):
        below = 0
        for bound, number in buckets:
            if below + number >= wanted:
                floor = bound / 2 if bound > 1 else 0.0
                found.append((floor + (bound - floor) * (wanted - below) / number) / 1000)
                break
            below += number
    return tuple(found)


def _pool_facts(source: Source, run: str) -> dict[str, Any]:
    """Sums over v_pools, of what a file of an older version has there."""
    there, _ = source.query("SELECT * FROM v_pools LIMIT 0")
    names = [name for name in ("connections", "peer_closes") if name in there]
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in names)
    (facts,) = _records(source, f"SELECT {sums} FROM v_pools WHERE run = ?", run)
    return facts


def _unverified(source: Source, run: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    wishes = {
        path[1]: DomainSettings(verify=value)
        for path, value in ((path_of(key), value) for key, value in given.items())
        if path[0] == "domains" and path[-1] == "verify"
    }
    if all(wish.verify for wish in wishes.values()):
        return ()
    settings = Settings(domains=wishes)
    _, asked = source.query("SELECT domain FROM v_pools WHERE run = ? ORDER BY domain", (run,))
    return tuple(domain for (domain,) in asked if not settings.for_domain(domain).verify)


def _failures(source: Source, run: str) -> tuple[Failure, ...]:
    """By code, the most frequent first; what was said is asked of one domain of each only."""
    totals = _records(
        source,
        "SELECT code, sum(count) AS count, domain, max(count) AS most FROM v_errors"
        " WHERE run = ? GROUP BY code ORDER BY 2 DESC, code",
        run,
    )
    found = []
    for total in totals:
        (said,) = _records(
            source,
            "SELECT coalesce(message, '') AS message, coalesce(url, '') AS url,"
            " coalesce(detail, '') AS detail FROM v_errors"
            " WHERE run = ? AND code = ? AND domain IS ?",
            run,
            total["code"],
            total["domain"],
        )
        named = {"code": total["code"], "count": total["count"], "domain": total["domain"] or ""}
        found.append(Failure(**named, **said))
    return tuple(found)


def _tables(source: Source, run: str) -> tuple[tuple[str, int], ...]:
    _, rows = source.query(
        "SELECT m.name FROM sqlite_master m WHERE m.type = 'table' AND EXISTS"
        " (SELECT 1 FROM pragma_table_info(m.name) WHERE name = '_run') ORDER BY m.name"
    )
    counts = []
    for (name,) in rows:
        quoted = '"' + name.replace('"', '""') + '"'
        counts.append((name, _one(source, f"SELECT count(*) FROM {quoted} WHERE _run = ?", run)))
    return tuple((name, number) for name, number in counts if number)


def _records(source: Source, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    columns, rows = source.query(sql, parameters)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _pairs(source: Source, sql: str, *parameters: Any) -> tuple[tuple[Any, Any], ...]:
    _, rows = source.query(sql, parameters)
    return tuple((first, second) for first, second in rows)


def _one(source: Source, sql: str, *parameters: Any) -> int:
    _, rows = source.query(sql, parameters)
    return int(rows[0][0])
