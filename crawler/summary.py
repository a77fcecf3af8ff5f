"""What a run came to, read from the public views.

Owns: which facts a summary has, and how they are asked for. Does not own: counting (the
views of storage do), how they are told (`report`), what they mean (`diagnosis`).

Invariants: a summary is made of public names only, so any process can make it at any
time; a file of an older version gives what it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import UsageError
from crawler.failures import Failure, causes, of_callbacks
from crawler.rows import has_view, pairs, records
from crawler.settings import DomainSettings, PoolSettings, Settings
from crawler.settings_groups import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crawler.rows import Source

__all__ = ["Busiest", "Summary", "percentiles", "summarise"]

SHARES = (0.5, 0.95, 0.99)
"""Of the answers, for `Summary.latency`."""


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
    """Requests done, as the view counts them: neither redirects nor pages whose callback
    failed, though these were delivered too."""
    done: int
    """Requests done, redirects included."""
    queued: int
    failed: int
    """Requests given up, and pages whose callback failed."""
    dropped: int
    requests: int
    retries: int
    errors: int
    """Of the failed ones, pages whose callback raised; what there was by code is in
    `failures`."""
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
    command: str | None = None
    """What `crawler run` was given: JSON; None: the run was begun in code, or it is old."""
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
    given_up: Failure | None = None
    """Why the first of these was; None: there is none, or it is not known."""
    sample: tuple[str, ...] = ()
    """What `crawler parse` needs to look at the last page of a run without items and without
    errors; else empty."""
    slowest: tuple[str, float] | None = None
    """Domain with the highest mean time to first byte, seconds; None: nothing answered."""
    busiest: Busiest | None = None
    latency: tuple[float, ...] = ()
    """Seconds within which 50, 95 and 99 % of the first bytes came; empty: nothing answered."""
    best_minute: int = 0
    """Requests done in the best minute, redirects included."""
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
    rows = records(source, "SELECT * FROM v_runs WHERE id = ?", run)
    if not rows:
        raise UsageError(f"no run `{run}` in this database", hint="`crawler runs` lists them")
    (facts,) = rows
    facts["run"] = facts.pop("id")
    facts = {name: facts[name] for name in Summary.__dataclass_fields__ if name in facts}
    for name in ("clients_peak", "evictions"):
        facts[name] = facts[name] or 0
    facts["ended_by"] = facts["ended_by"] or ""
    failures = causes(source, run)
    facts["errors"] = of_callbacks(facts["failed"], failures)
    (row,) = records(source, "SELECT * FROM runs WHERE id = ?", run)
    given: dict[str, Any] = msgspec.json.decode(row["settings"])
    return Summary(
        **facts,
        **_domain_facts(source, run),
        **_pool_facts(source, run),
        arguments=row["arguments"],
        command=row.get("command"),
        statuses=_statuses(source, run),
        latency=percentiles(_buckets(source, run), SHARES),
        keepalive=given.get("pool.keepalive", PoolSettings.keepalive),
        sockets=given.get("pool.sockets"),
        unverified=_unverified(source, run, given),
        tables=_tables(source, run),
        failures=failures,
        sample=_last_page(source, run) if _is_empty(facts) else (),
        drops=pairs(
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
    busiest = records(
        source,
        "SELECT domain, requests, delay FROM v_domains WHERE run = ? AND requests > 0"
        " ORDER BY requests DESC, domain LIMIT 1",
        run,
    )
    slowest = pairs(source, "SELECT domain, mean_ttfb_s FROM v_slowest WHERE run = ? LIMIT 1", run)
    waits = pairs(
        source,
        "SELECT domain, next_at FROM v_queue WHERE run = ? AND next_at IS NOT NULL"
        " ORDER BY next_at LIMIT 1",
        run,
    )
    dead = pairs(
        source,
        "SELECT domain, failed FROM v_domains WHERE run = ? AND state IN ('dead', 'unreachable')"
        " ORDER BY failed DESC, domain LIMIT 1000",
        run,
    )
    return {
        "domains": _one(source, "SELECT count(*) FROM v_domains WHERE run = ?", run),
        "busiest": Busiest(**busiest[0]) if busiest else None,
        "slowest": slowest[0] if slowest else None,
        "waits_for": waits[0] if waits else None,
        "unreachable": tuple(domain for domain, _ in dead),
        "given_up": _given_up(source, run, dead[0][0]) if dead else None,
    }


def _given_up(source: Source, run: str, domain: str) -> Failure | None:
    found = causes(source, run, code="domain-unreachable", domain=domain)
    return found[0] if found else None


def _is_empty(facts: Mapping[str, Any]) -> bool:
    return bool(facts["pages"]) and not facts["items"] and not facts["errors"]


def _last_page(source: Source, run: str) -> tuple[str, ...]:
    for url, request in pairs(
        source,
        "SELECT url, request FROM fetches WHERE run = ? AND decision = 'deliver'"
        " ORDER BY id DESC LIMIT 1",
        run,
    ):
        sql = "SELECT json_extract(payload, '$.callback') FROM requests WHERE id = ?"
        names = [name for (name,) in source.query(sql, (request,))[1] if name]
        return (url, "--callback", names[0]) if names else (url,)
    return ()


def _statuses(source: Source, run: str) -> tuple[tuple[str, int], ...]:
    """Answers by class of status; none in an older file."""
    if not has_view(source, "v_statuses"):
        return ()
    sql = (
        "SELECT (status / 100) || 'xx', sum(count) FROM v_statuses WHERE run = ?"
        " AND status >= 200 GROUP BY 1 ORDER BY 1"
    )
    return pairs(source, sql, run)


def _buckets(source: Source, run: str) -> tuple[tuple[int, int], ...]:
    """Upper bound in ms and number of answers, shortest first; none in an older file."""
    sql = (
        "SELECT below_ms, sum(count) FROM v_latency WHERE run = ? GROUP BY below_ms"
        " ORDER BY below_ms"
    )
    return pairs(source, sql, run) if has_view(source, "v_latency") else ()


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
    (facts,) = records(source, f"SELECT {sums} FROM v_pools WHERE run = ?", run)
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


def _one(source: Source, sql: str, run: str) -> int:
    return int(source.query(sql, (run,))[1][0][0])
