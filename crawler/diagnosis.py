"""What mattered most in a run, in one sentence, and what to do next. Pure.

Owns: the order in which causes are looked at, the sentence, the next commands.
Does not own: facts (`summary`), the rest of a report (`report`).

Invariants: at most one sentence and three commands; each command can be typed as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.commands import command, place_of, run_again
from crawler.errors import advice, code_of
from crawler.wording import duration, plural, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.summary import Failure, Summary

__all__ = ["diagnose", "next_commands"]

GOES_ON = ("waiting", "interrupted")
"""States of a run that `crawler run` goes on with."""
WORTH_AGAIN = ("domain", "request", "spider", "local")
"""Faults that may end otherwise another time."""
MOST = 3
"""Commands that are told."""


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
        return _sentence(f"{failed} failed, most with {_advised(summary, worst)}")
    if summary.ended_by == "requeue" and summary.queued:
        return f"{plural(summary.queued, 'URL')} to go since they were queued again."
    if summary.pages > 1 and not summary.items and summary.ended_by != "limit":
        return "Pages came, but no items: do the selectors still match?"
    if summary.evictions > summary.domains and summary.requests > 4 * summary.domains:
        return "Clients were evicted and made again: raise pool.clients."
    if summary.carried >= 50 and summary.reuse < 0.5 and (cause := _closing(summary)):
        return f"Most requests needed a new connection: {cause}."
    return _pace_sentence(summary)


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _advised(summary: Summary, failure: Failure, code: str = "") -> str:
    code = code or failure.code
    host = failure.domain or None
    hint = advice(code, url=failure.url or None, host=host, spider=summary.spider)
    return f"{code}: {hint or f'`crawler errors {summary.run}` shows them'}"


def _given_up(summary: Summary) -> str:
    """What was the matter with the domain that was given up first."""
    causes = [failure for failure in summary.failures if failure.cause]
    if not causes:
        return "could not be reached"
    return f"was given up with {_advised(summary, causes[0], causes[0].cause)}"


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


def next_commands(summary: Summary, database: str = "") -> list[str]:
    """At most three commands that fit the state of the run, the most useful one first.

    `database` is the file as the commands need it; empty: they are told without.
    """
    place = place_of(summary.run, summary.spider, database)
    commands = []
    if summary.state == "running":
        commands.append(command("status", *place, "--watch"))
    elif summary.state in GOES_ON or (summary.queued and summary.state == "finished"):
        resume = summary.state == "finished"
        again = run_again(summary.spider, summary.arguments, database, resume=resume)
        commands.append(again)
    if summary.failures:
        commands += _about_failures(summary, place)
    if summary.tables and summary.state != "running":
        table = summary.tables[0][0]
        which = ("--table", table) if len(summary.tables) > 1 else ()
        export = command("export", *place[:1], *which, *place[1:], "-o", f"{table}.csv")
        commands[MOST - 1 :] = [export]
    return commands[:MOST] or [command("runs", *place[1:])]


def _about_failures(summary: Summary, place: Sequence[str]) -> list[str]:
    worst = summary.failures[0]
    known = code_of(worst.code)
    commands = [command("errors", *place)]
    if worst.url:
        commands.append(command("why", worst.url, *place))
    if known is not None and known.fault in WORTH_AGAIN and summary.failed:
        commands.append(command("requeue", *place, "--code", worst.code))
    return commands
