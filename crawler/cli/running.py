"""Carrying out plans: which run each goes on with, signals, what is said meanwhile.

Owns: the session of a command, its signals, the words before and after a run. Does not
own: what is asked for (`plans`), crawling (`engine`), what is shown while it runs
(`watching`), the summary (`report`).

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
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.cli.feeds import Outputs
from crawler.cli.paragraphs import frames
from crawler.cli.settled import MOST_KINDS, Teller
from crawler.cli.voice import log_format, logged, say, tell_error
from crawler.cli.watching import Watch
from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.errors import FetchError, UsageError
from crawler.pool.budget import check_descriptors
from crawler.progress import first_line
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
    from crawler.summary import Summary
    from storage import RunRow

__all__ = ["run_plans", "say"]

MOST_TRACEBACKS = 3
SAME_SIGNAL_S = 0.3
"""A signal that comes twice within this was sent once, to the process and to its group."""
STARTS_LOOKED_AT = 1_000
"""Start URLs by which the expected rate is told."""
STDOUT = 1
"""Its descriptor; `sys.stdout` may be diverted."""
EXIT_AT_ONCE = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Manner(NamedTuple):
    """How a command carries its plans out."""

    how: str = "auto"
    """auto, fresh or resume."""
    live: str | None = None
    """What is shown meanwhile: full, line, off, or None for what fits the terminal."""
    verbosity: int = 0
    """-1: only errors; 0; 1: each page; 2: each item too."""

    @property
    def is_quiet(self) -> bool:
        """Nothing but errors is said."""
        return self.verbosity < 0


def run_plans(
    plans: Sequence[Plan],
    db: Path,
    *,
    how: str = "auto",
    quiet: bool = False,
    live: str | None = None,
    verbosity: int = 0,
    outputs: Outputs | None = None,
) -> list[CrawlResult]:
    """Run spiders side by side in one session; `how` is auto, fresh or resume, `live` is
    full, line, off or None (what fits the terminal).

    Raises UsageError where the process may not open as many files as that takes.
    """
    check_descriptors()
    gc.freeze()  # what was imported stays: the collector need not look at it again,
    gc.set_threshold(20_000, 20, 20)  # and a page's thousand objects die without it
    outputs = outputs or Outputs()
    if live != "off" and os.isatty(STDOUT) and any(sink.file is None for sink in outputs.sinks):
        live = "line"  # the items are what the terminal shows
    manner = Manner(how, live, -1 if quiet else verbosity)
    with logged():
        return run_loop(_run(plans, db, manner, outputs))  # type: ignore[no-any-return]


async def _run(
    plans: Sequence[Plan], db: Path, manner: Manner, outputs: Outputs
) -> list[CrawlResult]:
    session = await Session.open(db, plans[0].settings)
    teller = Teller(manner.verbosity)
    with contextlib.ExitStack() as stack:
        try:
            chosen = [await _choose(session, plan, manner.how) for plan in plans]
            for plan, row in zip(plans, chosen, strict=True):
                await _check_limit(session, plan, row)
            await outputs.look(session.store, chosen)
            caught = _catch_signals(session, stack)
            crawls = []
            for plan, row in zip(plans, chosen, strict=True):
                crawl = await session.begin(
                    plan.spider,
                    settings=plan.settings,
                    resume=row,
                    code_hash=plan.code,
                    identity=plan.identity,
                )
                if plan.command is not None:
                    await session.store.note(crawl.id, "command", plan.command)
                crawl.told = None if manner.is_quiet else teller
                crawls.append(crawl)
                if not manner.is_quiet:
                    _open(plan, crawl, db, row)
            runs = {crawl.id: crawl.row.name for crawl in crawls}
            await outputs.begin(session.store, runs, stop=session.stop)
            results = await _watch(session, crawls, caught, manner)
            await outputs.finish(quiet=manner.is_quiet)
        finally:
            await outputs.aclose()
            await session.aclose()
    results = [caught.judge(result) for result in results]
    if not (manner.is_quiet or outputs.has_reader_gone):
        _conclude(db, results, teller)
    for plan, result in zip(plans, results, strict=True):
        if result.message is not None:
            _say_error(plan, result)
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
    """Ask, where somebody can answer; whatever is not yes is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(
        f"{row.name} was interrupted, and its code has changed since. What is stored stays as"
        " the old code made it; --fresh begins anew.\nGo on with it? [y/N] ",
        nl=False,
        err=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _check_limit(session: Session, plan: Plan, row: RunRow | None) -> None:
    """A limit is of the run's pages, but for one that had ended: that counts anew."""
    limit = plan.settings.limit
    if row is None or row.state is RunState.FINISHED or limit is None:
        return
    counts = await session.store.count(row.id)
    done = counts.get("done", 0) - counts.get("redirected", 0)
    if done >= limit:
        few = "fewer" if limit < done else "no more"
        raise UsageError(
            f"{row.name} has {plural(done, 'page')} already, --limit {limit} is {few}",
            hint=f"--limit {done + limit} for {limit} more, or --fresh",
        )


class _Signals:
    """The first signal stops in good order, the second at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.watch: Watch | None = None
        """What is shown now; None: nothing yet, or no more."""
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
            self._say("stopped at once; what was not yet stored will be fetched again")
            if self.watch is not None:
                self.watch.close()
            os._exit(EXIT_AT_ONCE[number])
        self.caught, self._at = number, now
        if self.watch is not None:
            self.watch.stopping()
        self._say("stopping: requests under way may end; once more stops at once")
        self._session.stop()

    def judge(self, result: CrawlResult) -> CrawlResult:
        """SIGTERM has an exit code of its own."""
        is_term = self.caught is signal.SIGTERM and result.ended_by == "signal"
        return replace(result, signal=int(signal.SIGTERM)) if is_term else result

    def _say(self, text: str) -> None:
        has_view = self.watch is not None and self.watch.has_view
        is_beside = log_format() == "text" and not has_view and sys.stderr.isatty()
        say(f"\n{text}" if is_beside else text, event="stopping", level="warning")  # beside: ^C
        if self.watch is not None:
            self.watch.flush()


def _catch_signals(session: Session, stack: contextlib.ExitStack) -> _Signals:
    catcher = _Signals(session)
    loop = asyncio.get_running_loop()
    for number in EXIT_AT_ONCE:
        loop.add_signal_handler(number, catcher.catch, number)
        stack.callback(loop.remove_signal_handler, number)
    return catcher


async def _watch(
    session: Session, crawls: list[Crawl], caught: _Signals, manner: Manner
) -> list[CrawlResult]:
    ends = [asyncio.ensure_future(session.ended(crawl)) for crawl in crawls]
    try:
        with Watch(session.live, asked=manner.live, is_quiet=manner.is_quiet) as watch:
            caught.watch = watch
            await watch.until(ends)
        return [end.result() for end in ends]
    finally:
        caught.watch = None
        for end in ends:
            end.cancel()


# -- words --------------------------------------------------------------------------------


def _open(plan: Plan, crawl: Crawl, db: Path, row: RunRow | None) -> None:
    text, run = _opening(plan, crawl, db, row), crawl.row.name
    say(text, event="begin", wraps=True, run=run, database=str(db), goes_on=row is not None)
    if plan.pipe is not None and crawl.row.seeded_at is not None:
        say(f"{crawl.row.name} has all its URLs: {plan.pipe.name} is not read")


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


def _say_error(plan: Plan, result: CrawlResult) -> None:
    """What broke a run, with the user's frames, safe for a terminal."""
    tell_error(
        f"{plan.spider.name}: {result.message}",
        frames=frames(result.detail),
        run=result.run,
        detail=(result.detail or "").rstrip(),
    )


def _conclude(db: Path, results: Sequence[CrawlResult], teller: Teller) -> None:
    with Reader(db) as reader:
        for result in results:
            summary = summarise(reader, result.run)
            text = render(summary, str(db))
            if log_format() == "text":
                _say_failures(summary, teller)
            else:
                text = text.partition("\n")[0]
            told, code = asdict(summary), result.exit_code
            say(text, event="summary", wraps=True, exit_code=code, summary=told)
            if result.waits_s is not None:
                wait = duration(result.waits_s)
                say(f"nothing can start for {wait}: run it again then, or stay with --wait")


def _say_failures(summary: Summary, teller: Teller) -> None:
    """What went wrong in the user's own code: frames that were told already are not again."""
    for failure in [each for each in summary.failures if each.detail][:MOST_TRACEBACKS]:
        say(printable(f"{failure.code} ×{failure.count}, last: {failure.message}"), wraps=True)
        if failure.detail not in teller.details:
            for line in frames(failure.detail):
                say(printable(line))
    if (more := teller.stats() - MOST_KINDS) > 0:
        say(f"{plural(more, 'more kind')} of errors: `crawler errors {summary.run}` has them")
