"""Carrying out plans: which run each goes on with, signals, what is said meanwhile.

Owns: the session of a command, its signals, the words before, during and after a run.
Does not own: what is asked for (`plans`), crawling (`engine`), the summary (`report`).

Invariants: a run is gone on with only where spider, arguments and code are the same, or
where the user said so; the first signal stops in good order, the second one at once, and
neither loses anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import click

from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.errors import FetchError, UsageError
from crawler.pool.budget import check_descriptors
from crawler.progress import Progress, first_line
from crawler.report import render, summarise
from crawler.urls import canonicalise, is_private
from crawler.wording import duration, plural, printable
from storage import RunState
from storage.reading import Reader

if TYPE_CHECKING:
    from pathlib import Path

    from crawler.cli.plans import Plan
    from crawler.result import CrawlResult
    from crawler.run import Crawl
    from crawler.spider import Spider
    from storage import RunRow

__all__ = ["run_plans", "say"]

PROGRESS_S = 0.5
MOST_TRACEBACKS = 3
SAME_SIGNAL_S = 0.3
"""A signal that comes twice within this was sent once, to the process and to its group."""
STARTS_LOOKED_AT = 1_000
"""Start URLs by which the expected rate is told."""
EXIT_AT_ONCE = {signal.SIGINT: 130, signal.SIGTERM: 143}


def run_plans(
    plans: Sequence[Plan], db: Path, *, how: str = "auto", quiet: bool = False
) -> list[CrawlResult]:
    """Run spiders side by side in one session; `how` is auto, fresh or resume.

    Raises UsageError where the process may not open as many files as that takes.
    """
    check_descriptors()
    gc.freeze()  # what was imported stays: the collector need not look at it again,
    gc.set_threshold(20_000, 20, 20)  # and a page's thousand objects die without it
    return run_loop(_run(plans, db, how, quiet))  # type: ignore[no-any-return]


async def _run(plans: Sequence[Plan], db: Path, how: str, quiet: bool) -> list[CrawlResult]:
    session = await Session.open(db, plans[0].settings)
    with contextlib.ExitStack() as signals:
        try:
            chosen = [await _choose(session, plan, how) for plan in plans]
            caught = _catch_signals(session, signals)
            crawls = []
            for plan, row in zip(plans, chosen, strict=True):
                crawl = await session.begin(
                    plan.spider,
                    settings=plan.settings,
                    resume=row,
                    code_hash=plan.code,
                    identity=plan.identity,
                )
                crawls.append(crawl)
                if not quiet:
                    say(_opening(plan, crawl, db, row))
                if plan.pipe is not None and crawl.row.seeded_at is not None:
                    say(f"{crawl.row.name} has all its URLs: {plan.pipe.name} is not read")
            results = await _watch(session, crawls, quiet)
        finally:
            await session.aclose()
    results = [caught.judge(result) for result in results]
    if not quiet:
        _conclude(db, results)
    for plan, result in zip(plans, results, strict=True):
        if result.message is not None:
            say(printable(f"error: {plan.spider.name}: {result.message}"))
            _say_frames(result.detail)
    return results


async def _choose(session: Session, plan: Plan, how: str) -> RunRow | None:
    """The run to go on with; None: begin a new one. Raises UsageError where it is unclear."""
    rows = await session.store.runs()
    same = [r for r in rows if r.spider == plan.spider.name and r.arguments == plan.identity]
    last = same[-1] if same else None
    if how == "fresh":
        return None
    if how == "resume":
        if last is None:
            raise UsageError(
                f"no run of {plan.spider.name} with these arguments to go on with",
                hint="crawler runs lists them; without --resume a new one begins",
            )
        return last
    if last is None or last.state not in (RunState.WAITING, RunState.INTERRUPTED):
        return None
    if last.code_hash == plan.code or _may_go_on(last):
        return last
    raise UsageError(
        f"{last.name} was interrupted, and {plan.spider.name} has changed since",
        hint="--resume goes on with it, --fresh begins anew",
    )


def _may_go_on(row: RunRow) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"{row.name} was interrupted and its code has changed since. Go on with it?"
    return click.confirm(question, default=True, err=True)


class _Signals:
    """The first signal stops in good order, the second at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.caught: signal.Signals | None = None
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<_Signals {self.caught.name if self.caught else 'none'} caught>"

    def catch(self, number: signal.Signals) -> None:
        """A signal has come."""
        now = time.monotonic()
        if self.caught is not None and now - self._at < SAME_SIGNAL_S:
            return
        if self.caught is not None:
            say(f"{_new_line()}stopped at once; what was not yet stored will be fetched again")
            os._exit(EXIT_AT_ONCE[number])
        self.caught, self._at = number, now
        say(f"{_new_line()}stopping: requests under way may end; once more stops at once")
        self._session.stop()

    def judge(self, result: CrawlResult) -> CrawlResult:
        """SIGTERM has an exit code of its own."""
        is_term = self.caught is signal.SIGTERM and result.ended_by == "signal"
        return replace(result, signal=int(signal.SIGTERM)) if is_term else result


def _catch_signals(session: Session, stack: contextlib.ExitStack) -> _Signals:
    catcher = _Signals(session)
    loop = asyncio.get_running_loop()
    for number in EXIT_AT_ONCE:
        loop.add_signal_handler(number, catcher.catch, number)
        stack.callback(loop.remove_signal_handler, number)
    return catcher


async def _watch(session: Session, crawls: list[Crawl], quiet: bool) -> list[CrawlResult]:
    ends = [asyncio.ensure_future(session.ended(crawl)) for crawl in crawls]
    progress = Progress(sys.stderr)
    try:
        while not all(end.done() for end in ends):
            waiting = [end for end in ends if not end.done()]
            await asyncio.wait(waiting, timeout=PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
            for crawl, end in zip(crawls, ends, strict=True):
                if not quiet and not end.done():
                    now = asyncio.get_running_loop().time()
                    progress.show(session.snapshot(crawl), now)
        return [end.result() for end in ends]
    finally:
        progress.clear()
        for end in ends:
            end.cancel()


# -- words --------------------------------------------------------------------------------


def say(text: str) -> None:
    """Write a line to stderr."""
    click.echo(text, err=True)


def _new_line() -> str:
    """What brings a terminal's cursor behind the progress line and the ^C in it."""
    return "\n" if sys.stderr.isatty() else ""


def _opening(plan: Plan, crawl: Crawl, db: Path, row: RunRow | None) -> str:
    domains = _start_domains(plan.spider)
    domain = plan.settings.domain
    is_near = bool(domains) and all(is_private(name) for name in domains)
    return first_line(
        run=crawl.row.name,
        database=str(db),
        delay=0.0 if domain.delay == "auto" and is_near else domain.delay,
        concurrency=domain.concurrency,
        domains=max(1, len(domains)),
        done=crawl.done_before,
        queued=crawl.queued,
        goes_on=row is not None,
    )


def _start_domains(spider: Spider) -> set[str]:
    """Of the first start URLs, where they are a list; one that is no URL has its row later."""
    given = spider.start_urls
    domains = set()
    for url in islice(given, STARTS_LOOKED_AT) if isinstance(given, Sequence) else ():
        with contextlib.suppress(FetchError):
            domains.add(canonicalise(url).domain)
    return domains


def _say_frames(detail: str | None) -> None:
    """A traceback of the user's frames, safe for a terminal; None or empty: nothing."""
    for line in (detail or "").rstrip().splitlines():
        say(printable(line))


def _conclude(db: Path, results: Sequence[CrawlResult]) -> None:
    with Reader(db) as reader:
        for result in results:
            summary = summarise(reader, result.run)
            for failure in [each for each in summary.failures if each.detail][:MOST_TRACEBACKS]:
                say(printable(f"{failure.code} ×{failure.count}, last: {failure.message}"))
                _say_frames(failure.detail)
            say(render(summary, str(db)))
            if result.waits_s is not None:
                wait = duration(result.waits_s)
                say(f"nothing can start for {wait}: run it again then, or stay with --wait")
            if result.ended_by == "signal":
                left = plural(result.queued, "URL")
                say(f"{result.run} stopped; {left} kept. Run the same command again to go on.")
