"""What mattered most in a run, in one sentence, and what to do next. Pure.

Owns: the order in which causes are looked at, the sentence, the next commands.
Does not own: facts (`summary`), the rest of a report (`report`).

Invariants: at most one sentence and three commands; each command can be typed as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crawler.commands import GOES_ON, command, not_kept, place_of, run_again, target_of
from crawler.errors import advice, code_of
from crawler.wording import duration, plural, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.failures import Failure
    from crawler.summary import Summary

__all__ = ["diagnose", "lacking", "next_commands"]

_RUNS_SPIDER = re.compile("`crawler (?:run|requeue|parse) ").search
MOST = 3
"""Commands that are told."""


def diagnose(summary: Summary, database: str = "") -> str:
    """One sentence on what mattered most in the run; empty: nothing stands out.

    `database` is the file as the commands in it need it; empty: they are told without.
    """
    settled = summary.done + summary.failed
    worst = summary.failures[0] if summary.failures else None
    if summary.state == "waiting" and summary.waits_for:
        return f"{plural(summary.queued, 'URL')} wait, first for {summary.waits_for[0]}."
    if summary.unreachable and not summary.done:
        return _sentence(f"No page came: {summary.unreachable[0]} {_given_up(summary, database)}")
    if worst and summary.failed and summary.failed * 10 >= settled:
        failed = share(summary.failed / settled)
        return _sentence(f"{failed} failed, most with {_advised(summary, database, worst)}")
    if summary.ended_by == "requeue" and summary.queued:
        return f"{plural(summary.queued, 'URL')} to go since they were queued again."
    if summary.pages and not summary.items and summary.ended_by != "limit":
        came = "Pages came" if summary.pages > 1 else "A page came"
        return f"{came}, but no items: do the selectors match what is there?"
    if summary.evictions > summary.domains and summary.requests > 4 * summary.domains:
        return "Clients were evicted and made again: raise pool.clients."
    if summary.carried >= 50 and summary.reuse < 0.5 and (cause := _closing(summary)):
        return f"Most requests needed a new connection: {cause}."
    return _pace_sentence(summary)


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _advised(summary: Summary, database: str, failure: Failure, code: str = "") -> str:
    code = code or failure.code
    hint = advice(
        code,
        url=failure.url,
        host=failure.domain,
        spider=target_of(_row(summary)),
        place=place_of(summary.run, summary.spider, database),
    )
    if summary.command is None:  # the spider may not be found by its name
        clauses = [each for each in hint.split("; ") if not _RUNS_SPIDER(each)]
        hint = "; ".join(clauses)
    return f"{code}: {hint or f'`crawler errors {summary.run}` shows them'}"


def _given_up(summary: Summary, database: str) -> str:
    """What was the matter with the domain that was given up first."""
    failure, domain = summary.given_up, summary.unreachable[0]
    if failure is None:
        failure = next((each for each in summary.failures if each.domain == domain), None)
    if failure is None or not failure.cause:
        return "could not be reached"
    return f"was given up with {_advised(summary, database, failure, failure.cause)}"


def _row(summary: Summary) -> dict[str, str | None]:
    """What `crawler.commands` needs of the run."""
    names = ("spider", "state", "ended_by", "arguments", "command")
    return {name: getattr(summary, name) for name in names}


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
    elif _can_go_on(summary):
        commands.append(run_again(_row(summary), database))
    if summary.sample and summary.command is not None:
        commands.append(command("parse", target_of(_row(summary)), *summary.sample))
    if summary.failures:
        commands += _about_failures(summary, place)
    if summary.tables and summary.state != "running":
        table = summary.tables[0][0]
        which = ("--table", table) if len(summary.tables) > 1 else ()
        export = command("export", *place[:1], *which, *place[1:], "-o", f"{table}.csv")
        commands[MOST - 1 :] = [export]
    return commands[:MOST] or [command("runs", *place[1:])]


def _can_go_on(summary: Summary) -> bool:
    """`crawler run` can: what was begun in code has no command that is known to work."""
    if summary.command is None:
        return False
    return summary.state in GOES_ON or (summary.queued > 0 and summary.state == "finished")


def lacking(summary: Summary) -> str:
    """What is to be added to the command that goes on with the run; empty: nothing."""
    return not_kept(_row(summary)) if _can_go_on(summary) else ""


def _about_failures(summary: Summary, place: Sequence[str]) -> list[str]:
    worst = summary.failures[0]
    known = code_of(worst.code)
    commands = [command("errors", *place)]
    if worst.url:
        commands.append(command("why", worst.url, *place))
    is_worth_it = known is not None and known.is_worth_again and summary.failed
    if is_worth_it and summary.command is not None:
        commands.append(command("requeue", *place, "--code", worst.code))
    return commands
