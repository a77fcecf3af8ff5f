"""A run that nobody is working on, as its database tells it: `crawler status`.

Owns: which facts are read, their screen. Does not own: the whole story (`crawler.report`).

Invariants: public views only, none of which is read whole; where the state says `running`
and no crawl has the file, it is told as what it is: interrupted by a crash.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from crawler.cli.table import Line, Part, Span, domain_table, fitted, safe
from crawler.commands import GOES_ON, command, not_kept, place_of, run_again
from crawler.failures import causes, of_callbacks
from crawler.live import DomainLive
from crawler.wording import count, duration, plural

if TYPE_CHECKING:
    from storage.reading import Reader

__all__ = ["Stored", "render", "stored"]

SHOWN = 12
"""Domains that are shown."""
LABEL = 9
_COUNTS = ("pages", "items", "failed", "errors", "retries", "queued")
UNKNOWN = ("state", "active", "rate", "p50", "p95")
"""Columns that only a running crawl can fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A run as it was left."""

    run: str
    database: str
    state: str
    ended_by: str
    """Empty: it runs, or nobody knows."""
    stopped_at: float | None
    """Wall clock; after a crash that of the last write. None: it runs."""
    pages: int
    items: int
    failed: int
    """Requests given up, and pages whose callback failed."""
    errors: int
    """Of the failed ones, pages whose callback raised."""
    retries: int
    queued: int
    domains_total: int
    domains: tuple[DomainLive, ...]
    """The longest queues first, then who was asked most."""
    next: tuple[str, ...]
    """Commands that fit, the most useful one first."""
    not_kept: str = ""
    """What the command to go on lacks; empty: nothing."""

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        names = ("domain", "queued", "requests", "s2xx", "s3xx", "s4xx", "s5xx", "problem")
        domains = [{name: getattr(each, name) for name in names} for each in self.domains]
        return {**asdict(self), "domains": domains}


def stored(reader: Reader, run: str, database: str) -> Stored:
    """Read a run that exists."""
    columns, rows = reader.query(
        "SELECT r.*, v.* FROM v_runs v JOIN runs r ON r.id = v.id WHERE v.id = ?",
        (run,),
    )
    facts = dict(zip(columns, rows[0], strict=True))
    facts["causes"] = causes(reader, run)
    facts["errors"] = of_callbacks(facts["failed"], facts["causes"])
    state, ended_by, stopped_at = facts["state"], facts["ended_by"] or "", facts["finished_at"]
    if state == "running" and not reader.is_in_use:
        state, ended_by, stopped_at = "interrupted", "crash", _written_at(database)
    ((domains_total,),) = reader.query("SELECT count(*) FROM v_domains WHERE run = ?", (run,))[1]
    return Stored(
        run=run,
        database=database,
        state=state,
        ended_by=ended_by,
        stopped_at=None if state == "running" else stopped_at,
        **{name: facts[name] for name in _COUNTS},
        domains_total=domains_total,
        domains=_domains(reader, run),
        next=_next(facts, state, run, database),
        not_kept=not_kept(facts) if _can_go_on(facts, state) else "",
    )


def _written_at(database: str) -> float:
    """When the file or its log was last written."""
    found = []
    for path in (database, f"{database}-wal"):
        try:
            found.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(found)


def _domains(reader: Reader, run: str) -> tuple[DomainLive, ...]:
    problems: dict[str, tuple[str, int, str]] = {}
    _, rows = reader.query(
        "SELECT domain, code, count, message FROM v_errors WHERE run = ?"
        " ORDER BY count DESC LIMIT 500",
        (run,),
    )
    for domain, code, number, message in rows:
        problems.setdefault(domain or "", (code, number, message or ""))
    _, rows = reader.query(
        "SELECT domain, queued, requests, s2xx, s3xx, s4xx, s5xx FROM v_domains WHERE run = ?"
        f" ORDER BY queued DESC, requests DESC, domain LIMIT {SHOWN}",
        (run,),
    )
    found = []
    for domain, queued, requests, *answers in rows:
        code, number, message = problems.get(domain, ("", 0, ""))
        classes = dict(zip(("s2xx", "s3xx", "s4xx", "s5xx"), answers, strict=True))
        found.append(
            DomainLive(
                domain=domain,
                state="",
                queued=queued,
                requests=requests,
                problem=code,
                problem_count=number,
                problem_text=message,
                **classes,
            )
        )
    return tuple(found)


def _next(facts: dict[str, Any], state: str, run: str, database: str) -> tuple[str, ...]:
    spider = facts["spider"]
    place = place_of(run, spider, database)
    commands = [command("report", *place)]
    if _can_go_on(facts, state):
        commands.insert(0, run_again(facts, database))
    if facts["causes"]:
        commands.append(command("errors", *place))
    return tuple(commands)


def _can_go_on(facts: dict[str, Any], state: str) -> bool:
    """`crawler run` can: what was begun in code has no command that is known to work."""
    if facts.get("command") is None:
        return False
    return state in GOES_ON or (state == "finished" and facts["queued"] > 0)


# -- the screen ------------------------------------------------------------------------------


def render(found: Stored, width: int, height: int, now: float) -> list[Line]:
    """A run in lines of at most `width` cells; `now` is the wall clock."""
    lines = [
        _head(found, width, now),
        _line("pages", [("", found.pages), ("items", found.items), *_troubles(found)], width),
        _line("queue", [("", found.queued)], width),
    ]
    room = max(3, min(SHOWN, height - 10))
    shown = found.domains[:room]
    if shown:
        lines += [[], *domain_table(shown, width, without=UNKNOWN)]
    if (more := found.domains_total - len(shown)) > 0:
        lines.append([Span(f"… {plural(more, 'domain')} more", "dim")])
    lines.append([])
    for n, text in enumerate(found.next):
        # A command is not cut: it is there to be copied.
        lines.append([Span("" if n else "Next: ", "dim"), Span(" " * 6 * bool(n) + safe(text))])
    if found.not_kept:
        lines.append([Span(" " * 6 + safe(found.not_kept), "dim")])
    return lines


def _head(found: Stored, width: int, now: float) -> Line:
    how = f" ({found.ended_by})" if found.ended_by not in ("", found.state) else ""
    ago = "" if found.stopped_at is None else f" {duration(max(0.0, now - found.stopped_at))} ago"
    style = "good" if found.state == "finished" else "warn"
    return fitted(
        [
            Part([Span(safe(found.run), "bold")]),
            Part([Span(safe(found.database))], 1),
            Part([Span(safe(f"{found.state}{how}"), style), Span(ago)]),
        ],
        width,
    )


def _troubles(found: Stored) -> list[tuple[str, int]]:
    told = (("failed", found.failed), ("errors", found.errors), ("retries", found.retries))
    return [(name, number) for name, number in told if number]


def _line(label: str, figures: list[tuple[str, int]], width: int) -> Line:
    parts = [
        Part([*([Span(f"{name} ", "dim")] if name else []), Span(count(number))])
        for name, number in figures
    ]
    return [Span(label.ljust(LABEL), "dim"), *fitted(parts, width - LABEL, gap="   ")]
