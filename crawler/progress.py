"""What a crawl says while it goes on and nobody draws it: its first line, lines of a log.

Owns: their form, and when a line is due: at times, and as soon as the mood changes. Does
not own: the figures (`gauges`), a terminal's view (`crawler.cli`), the summary (`report`).

Invariants: no clock, it takes `now`; a line is due every 30 s, a burst of failures is told
at most once in that time, a domain's trouble once in five minutes; text from the web is
escaped.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from crawler.wording import count, duration, plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.live import DomainLive, Live, RunLive

__all__ = ["Notice", "Progress", "first_line", "logfmt", "progress_facts"]

FIRST_S = 10.0
EVERY_S = 30.0
"""Seconds between two lines, and over which failures are counted."""
BURST = 10
"""Failures within that time that are told at once, ..."""
BURST_SHARE = 0.2
"""... when they are this share of what ended."""
TOLD_AGAIN_S = 300.0
"""Seconds after which it is news again that a domain is in trouble."""
NAMED = 3
MOST_KNOWN = 10_000
"""Domains and codes that are remembered."""
TROUBLE = ("throttled", "unreachable", "failing")


class Notice(NamedTuple):
    """A line that is due."""

    event: str
    """progress or problem."""
    text: str
    facts: dict[str, Any]


class Progress:
    """Finds out when there is something to say about a session."""

    def __init__(self, now: float, *, first_s: float = FIRST_S) -> None:
        """`now` is monotonic, as all instants here; the first line is due after `first_s`."""
        self._due_at = now + first_s
        self._told_at: dict[str, float] = {}
        self._since = now
        self._ended = 0
        self._failed: Counter[tuple[str, str]] = Counter()
        """By domain and code, since then."""
        self._requests: dict[str, int] = {}
        self._counts: dict[tuple[str, str], int] = {}
        """As of the last look."""
        self._told = 0

    def __repr__(self) -> str:
        return f"<Progress {self._told} told, next at {self._due_at:.0f}>"

    def look(self, live: Live, now: float) -> list[Notice]:
        """The lines that are due now; to be called about once a second."""
        due = []
        if problem := self._problem(live, now):
            due.append(problem)
        if now >= self._due_at:
            self._due_at = now + EVERY_S
            due += [_progress(run, live) for run in live.runs]
        self._told += len(due)
        return due

    def stats(self) -> int:
        """How many lines were due."""
        return self._told

    def _problem(self, live: Live, now: float) -> Notice | None:
        self._count(live)
        failed, seconds = self._failed.total(), now - self._since
        is_burst = failed >= BURST and failed >= BURST_SHARE * self._ended
        fallen = [domain for domain in live.domains if self._is_news(domain, now)]
        for domain in fallen:
            self._told_at[domain.domain] = now
        facts: dict[str, Any] = {"run": ",".join(run.run for run in live.runs)}
        if is_burst:
            causes = [
                {"code": code, "count": number, "domain": name}
                for (name, code), number in self._failed.most_common(NAMED)
            ]
            facts |= {"failed": failed, "seconds": round(seconds), "causes": causes}
        if is_burst or seconds >= EVERY_S:
            self._since, self._ended = now, 0
            self._failed.clear()
        if not (is_burst or fallen):
            return None
        facts["domains"] = [{"domain": each.domain, "state": each.state} for each in fallen]
        return Notice("problem", _problem_text(live, facts, fallen), facts)

    def _is_news(self, domain: DomainLive, now: float) -> bool:
        if domain.state not in TROUBLE:
            return False
        told_at = self._told_at.get(domain.domain)
        return told_at is None or now - told_at >= TOLD_AGAIN_S

    def _count(self, live: Live) -> None:
        """Add what has ended and failed since the last look.

        Of a domain that was not among those shown nobody knows when its failures came; they
        count from now on, unless every domain is shown.
        """
        is_first = not self._requests
        is_whole = live.domains_total <= len(live.domains) and not is_first
        for domain in live.domains:
            name, key = domain.domain, (domain.domain, domain.problem)
            before, count_before = self._requests.get(name), self._counts.get(key, 0)
            if before is not None or is_whole:
                self._ended += max(0, domain.requests - (before or 0))
                if domain.problem:
                    new = domain.problem_count - count_before
                    self._failed[key] += new if new >= 0 else domain.problem_count
            self._requests[name], self._counts[key] = domain.requests, domain.problem_count
        if len(self._requests) + len(self._counts) + len(self._told_at) > MOST_KNOWN:
            self._requests.clear()
            self._counts.clear()
            self._told_at.clear()


# -- words -----------------------------------------------------------------------------------


def progress_facts(run: RunLive, live: Live) -> dict[str, Any]:
    """A run for a log; what is unknown is left out."""
    facts = {
        "run": run.run,
        "state": run.state if run.state != "running" else None,
        "seconds": round(run.seconds),
        "pages": run.pages_before + run.pages,
        "rate": round(run.rate, 1),
        "items": run.items,
        "queued": run.queued,
        "failed": run.failed,
        "errors": run.errors,
        "retries": run.retries,
        "on_wire": live.on_wire,
        "domains": live.domains_total,
        "clients": live.clients,
        "reuse": round(live.reuse, 3),
        "ends_in_s": None if run.ends_in_s is None else round(run.ends_in_s),
        "worst": _worst(live),
    }
    return {name: value for name, value in facts.items() if value is not None}


def logfmt(event: str, facts: dict[str, Any], at: float) -> str:
    """`12:03:10 event key=value …`; `at` is told as the clock of this place."""
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    pairs = " ".join(f"{name}={_quoted(str(value))}" for name, value in facts.items())
    return f"{clock} {event} {pairs}"


def _progress(run: RunLive, live: Live) -> Notice:
    facts = progress_facts(run, live)
    return Notice("progress", logfmt("crawl", facts, live.at), facts)


def _problem_text(live: Live, facts: dict[str, Any], fallen: list[DomainLive]) -> str:
    line = logfmt("PROBLEM", {"run": facts["run"]}, live.at)
    told = []
    if "failed" in facts:
        causes = [f"{c['code']} ×{count(c['count'])} {c['domain']}" for c in facts["causes"]]
        line += f" failed={facts['failed']} in {facts['seconds']}s:"
        told.append(", ".join(causes))
    else:
        line += ":"
    told += list(_fallen(fallen))
    return printable(f"{line} {'; '.join(told)}")


def _fallen(domains: list[DomainLive]) -> Iterator[str]:
    for domain in domains[:NAMED]:
        wait = f" for {duration(domain.wait_s)}" if domain.wait_s else ""
        why = f", {domain.problem} ×{count(domain.problem_count)}" if domain.problem else ""
        text = f" ({domain.problem_text})" if why and domain.problem_text else ""
        yield f"{domain.domain} {domain.state}{wait}{why}{text}"
    if len(domains) > NAMED:
        yield f"and {plural(len(domains) - NAMED, 'domain')} more"


def _worst(live: Live) -> str | None:
    if live.shortage:
        return live.shortage
    for domain in live.domains:
        if domain.problem and domain.state in TROUBLE:
            return f"{domain.domain}:{domain.problem}"
    return None


def _quoted(value: str) -> str:
    text = printable(value)
    if text and not any(char in text for char in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def first_line(
    *,
    run: str,
    database: str,
    delay: float | Literal["auto"],
    concurrency: int,
    domains: int = 1,
    done: int = 0,
    queued: int = 0,
    goes_on: bool = False,
) -> str:
    """What a crawl says before its first request: where it stands and how fast it will be.

    `delay` (seconds, or auto) and `concurrency` are those in effect for the `domains` that
    the start URLs name; `done` and `queued` are told when it goes on with a run.
    """
    begins = f"{run} begins in {database}"
    if goes_on:
        begins = (
            f"{run} goes on in {database} ({plural(done, 'page')} done, {count(queued)} queued)"
        )
    where = f" on {count(domains)} domains" if domains > 1 else ""
    if delay == "auto":
        rate = f"{0.5 * domains:g} to {4 * domains:g} pages/s{where}"
        change = "domain.delay=auto; `-s domain.delay=1` fixes a pause of 1 s"
    elif delay > 0:
        rate = f"at most {domains / delay:.3g} pages/s{where}"
        change = f"domain.delay={delay:g}; `-s domain.delay={delay / 2:g}` doubles it"
    else:
        rate = f"no pause, up to {concurrency} requests at once per domain"
        change = "domain.delay=0; `-s domain.concurrency=N` bounds it"
    return printable(f"{begins}. Expected: {rate} ({change}).")
