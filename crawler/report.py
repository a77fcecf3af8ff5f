"""The summary of a run as text: which facts are shown, and how.

Does not own: the facts (`summary`), the sentence and the commands (`diagnosis`), nor what
is said while a run goes on (`progress`).

Invariant: text from the web never reaches a terminal unescaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.diagnosis import diagnose, lacking, next_commands
from crawler.summary import summarise
from crawler.wording import count, duration, plural, printable, share, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.failures import Failure
    from crawler.summary import Summary

__all__ = ["render", "summarise"]

NAMED = 5
"""Domains that one line names."""


def render(summary: Summary, database: str = "") -> str:
    """The summary as text for a terminal, the next commands at its end.

    `database` is the file as the commands need it; empty: they are told without.
    """
    lines = [_headline(summary, database)]
    lines += [f"  {label:<9} {text}" for label, text in _facts(summary) if text]
    if diagnosis := diagnose(summary, database):
        lines.append(f"  {diagnosis}")
    first, *others = next_commands(summary, database)
    lines += [f"Next: {first}", *(f"      {other}" for other in others)]
    if lacks := lacking(summary):
        lines.append(f"      {lacks}")
    return "\n".join(printable(line) for line in lines)


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
    causes = [_failure(failure) for failure in summary.failures[:6]]
    return [
        ("pages", f"{count(summary.pages)} at {rate:.1f}/s{best}"),
        ("answers", " · ".join(_named(summary.statuses))),
        ("queue", f"{plural(summary.queued, 'URL')} to go" if summary.queued else ""),
        ("items", " · ".join(_named(summary.tables))),
        ("failed", _failed(summary)),
        ("causes", " · ".join(causes)),
        ("retries", count(summary.retries) if summary.retries else ""),
        ("dropped", _led(summary.dropped, summary.drops)),
        ("latency", _latency(summary)),
        ("pools", _pools(summary)),
        ("tls", _tls(summary)),
        ("traffic", f"{size(summary.bytes_received)} down" if summary.bytes_received else ""),
    ]


def _failed(summary: Summary) -> str:
    if not summary.failed:
        return ""
    errors = f" · errors {count(summary.errors)}" if summary.errors else ""
    return f"{plural(summary.failed, 'URL')}{errors}"


def _failure(failure: Failure) -> str:
    more = ", …" if failure.domains > 1 else ""
    cause = f" ({failure.cause}{more})" if failure.cause else ""
    return f"{failure.code} {count(failure.count)}{cause}"


def _latency(summary: Summary) -> str:
    names = ("p50", "p95", "p99")
    parts = [
        f"{name} {duration(seconds)}" for name, seconds in zip(names, summary.latency, strict=False)
    ]
    if summary.slowest is not None and summary.domains > 1:
        domain, seconds = summary.slowest
        parts.append(f"slowest {domain}, {duration(seconds)} on average")
    return " · ".join(parts)


def _pools(summary: Summary) -> str:
    if not summary.carried:
        return ""
    parts = [
        f"reuse {share(summary.reuse)}",
        f"{plural(summary.new_connections, 'connection')} for {plural(summary.carried, 'request')}",
    ]
    if summary.clients_peak:  # not known while it runs
        parts.append(f"at most {plural(summary.clients_peak, 'client')}")
        parts.append(plural(summary.evictions, "eviction"))
    return " · ".join(parts)


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
