"""The summary of a run: which facts are shown, how, and one sentence of diagnosis.

Does not own: counting (the views of storage do), nor what is said while a run goes on
(`progress`).

Invariants: a summary is made of public names only, so any process can make it at any
time; text from the web never reaches a terminal unescaped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from crawler.errors import CODES, UsageError
from crawler.settings import DomainSettings, PoolSettings, Settings
from crawler.settings_groups import path_of
from crawler.wording import count, duration, plural, printable, share, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Busiest",
    "Failure",
    "Source",
    "Summary",
    "diagnose",
    "render",
    "summarise",
]

GOES_ON = ("running", "waiting", "interrupted")
"""States of a run that `crawler run` goes on with."""
NAMED = 5
"""Domains that one line names."""


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


# ── summary ──────────────────────────────────────────────────────────────────────────────


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
    given = _given(source, run)
    return Summary(
        **facts,
        **_domain_facts(source, run),
        **_pool_facts(source, run),
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
    (sums,) = _records(
        source,
        "SELECT count(*) AS domains, sum(s2xx) AS '2xx', sum(s3xx) AS '3xx', sum(s4xx) AS '4xx',"
        " sum(s5xx) AS '5xx' FROM v_domains WHERE run = ?",
        run,
    )
    domains = sums.pop("domains")
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
        "statuses": tuple((name, number) for name, number in sums.items() if number),
        "busiest": Busiest(**busiest[0]) if busiest else None,
        "slowest": slowest[0] if slowest else None,
        "waits_for": waits[0] if waits else None,
        "unreachable": tuple(domain for domain, _ in dead),
    }


def _given(source: Source, run: str) -> dict[str, Any]:
    """The run's own settings, as of the last time it was gone on with."""
    (row,) = _records(source, "SELECT settings FROM runs WHERE id = ?", run)
    given: dict[str, Any] = msgspec.json.decode(row["settings"])
    return given


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
    found: dict[str, Failure] = {}
    rows = _records(
        source,
        "SELECT code, count, coalesce(domain, '') AS domain, coalesce(message, '') AS message,"
        " coalesce(detail, '') AS detail FROM v_errors WHERE run = ?"
        " ORDER BY count DESC, code, domain",
        run,
    )
    for row in rows:
        first = found.get(row["code"])
        if first is None:
            found[row["code"]] = Failure(**row)
        else:
            found[row["code"]] = replace(first, count=first.count + row["count"])
    return tuple(sorted(found.values(), key=lambda failure: (-failure.count, failure.code)))


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


def render(summary: Summary, database: str = "") -> str:
    """The summary as text for a terminal, the next commands at its end.

    `database` is the file as the commands need it; empty: they are told without.
    """
    lines = [_headline(summary, database)]
    lines += [f"  {label:<9} {text}" for label, text in _facts(summary) if text]
    if diagnosis := diagnose(summary):
        lines.append(f"  {diagnosis}")
    lines.append("Next: " + " · ".join(_next(summary, database)))
    return "\n".join(printable(line) for line in lines)


def diagnose(summary: Summary) -> str:
    """One sentence on what mattered most in the run; empty: nothing stands out."""
    settled = summary.done + summary.failed
    worst = summary.failures[0] if summary.failures else None
    if summary.state == "waiting" and summary.waits_for:
        return f"{plural(summary.queued, 'URL')} wait, first for {summary.waits_for[0]}."
    if summary.unreachable and not summary.done:
        return _sentence(f"No page came: {summary.unreachable[0]} {_given_up(summary)}")
    if worst and summary.failed and summary.failed * 10 >= settled:
        failed = share(summary.failed / settled)
        return _sentence(f"{failed} failed, most with {_advised(worst.code)}")
    if summary.pages > 1 and not summary.items and summary.ended_by != "limit":
        return "Pages came, but no items: do the selectors still match?"
    if summary.evictions > summary.domains and summary.requests > 4 * summary.domains:
        return "Clients were evicted and made again: raise pool.clients."
    if summary.carried >= 50 and summary.reuse < 0.5 and (cause := _closing(summary)):
        return f"Most requests needed a new connection: {cause}."
    return _pace_sentence(summary)


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _advised(code: str) -> str:
    return f"{code}: {CODES[code].hint if code in CODES else 'see v_errors'}"


def _given_up(summary: Summary) -> str:
    """What was the matter with the domain that was given up first."""
    causes = [failure.cause for failure in summary.failures if failure.cause]
    return f"was given up with {_advised(causes[0])}" if causes else "could not be reached"


def _closing(summary: Summary) -> str:
    """Why connections did not live to a second request; empty: few had one to wait for."""
    if summary.keepalive <= (summary.busiest.delay if summary.busiest else 0.0):
        return f"pool.keepalive = {summary.keepalive:g} s ends them between two"
    if summary.sockets is not None and summary.sockets < summary.connections:
        return f"pool.sockets = {summary.sockets} leaves no room for idle ones"
    if 2 * summary.peer_closes > summary.new_connections:
        return "the servers close idle ones, and a shorter domain.delay would come in time"
    return "the servers close theirs" if summary.carried > 4 * summary.domains else ""


def _pace_sentence(summary: Summary) -> str:
    pace = summary.busiest
    if pace is None or pace.requests < 10 or pace.delay * pace.requests < 0.7 * summary.seconds:
        return ""
    return (
        f"The pace of {pace.domain} (a start each {duration(pace.delay)}) set the length of the"
        " run: domain.delay changes it, more concurrency does not."
    )


def _headline(summary: Summary, database: str) -> str:
    ended = f" ({summary.ended_by})" if summary.ended_by not in ("", summary.state) else ""
    verb = "runs since" if summary.state == "running" else f"{summary.state}{ended} after"
    facts = [plural(summary.pages, "page"), plural(summary.items, "item")]
    if database:
        facts.insert(0, database)
    return f"{summary.run} {verb} {duration(summary.seconds)}: {' · '.join(facts)}"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """Label and text of each line; lines without text are left out."""
    rate = summary.pages / summary.seconds if summary.seconds > 0 else 0.0
    best = (
        f", {summary.best_minute / 60:.1f}/s in the best minute" if summary.seconds >= 120 else ""
    )
    errors = [_failure(failure) for failure in summary.failures[:6]]
    return [
        ("pages", f"{count(summary.pages)} at {rate:.1f}/s{best}"),
        ("answers", " · ".join(_named(summary.statuses))),
        ("queue", f"{plural(summary.queued, 'URL')} to go" if summary.queued else ""),
        ("items", " · ".join(_named(summary.tables))),
        ("failed", plural(summary.failed, "URL") if summary.failed else ""),
        ("errors", " · ".join(errors)),
        ("retries", count(summary.retries) if summary.retries else ""),
        ("dropped", _led(summary.dropped, summary.drops)),
        ("latency", _latency(summary)),
        ("pools", _pools(summary)),
        ("tls", _tls(summary)),
        ("traffic", f"{size(summary.bytes_received)} down" if summary.bytes_received else ""),
    ]


def _failure(failure: Failure) -> str:
    cause = f" ({failure.cause})" if failure.cause else ""
    return f"{failure.code} {count(failure.count)}{cause}"


def _latency(summary: Summary) -> str:
    if summary.slowest is None:
        return ""
    domain, seconds = summary.slowest
    return f"{duration(seconds)} to the first byte on the slowest domain, {domain}"


def _pools(summary: Summary) -> str:
    if not summary.carried:
        return ""
    return (
        f"reuse {share(summary.reuse)} · {plural(summary.new_connections, 'connection')} for"
        f" {plural(summary.carried, 'request')} · at most {plural(summary.clients_peak, 'client')}"
        f" · {plural(summary.evictions, 'eviction')}"
    )


def _tls(summary: Summary) -> str:
    if not summary.unverified:
        return ""
    more = len(summary.unverified) - NAMED
    names = ", ".join(summary.unverified[:NAMED]) + (f" and {count(more)} more" if more > 0 else "")
    return f"certificates not verified: {names}"


def _led(total: int, parts: Sequence[tuple[str, int]]) -> str:
    return " · ".join([count(total), *_named(parts)]) if total else ""


def _named(parts: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{name} {count(number)}" for name, number in parts]


def _next(summary: Summary, database: str) -> list[str]:
    file = f" --db {database}" if database else ""
    db = "" if database == f"{summary.spider}.db" else file
    commands = []
    if summary.state in GOES_ON and summary.state != "running":
        commands.append("the same `crawler run` again goes on")
    elif summary.queued and summary.state == "finished":
        commands.append("the same `crawler run` with --resume goes on")
    if summary.errors or summary.failed:
        commands.append(f'crawler sql "select * from v_errors"{file}')
    for table, _ in summary.tables[:1]:
        which = f" --table {table}" if len(summary.tables) > 1 else ""
        commands.append(f"crawler export {summary.run}{which}{db} -o {table}.csv")
    return commands or [f"crawler runs{file}"]
