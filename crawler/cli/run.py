"""`crawler run`: run spiders, or go on with a run that was interrupted.

Owns: what is asked for (targets, URLs, arguments, settings), which run it means, signals,
exit codes. Does not own: crawling (`engine`) or words (`progress`, `report`).

Invariants: every mistake is told before the first request; a run is gone on with only
where spider, arguments and code are the same, or where the user said so; the first signal
stops in good order, the second one at once, and neither loses anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from crawler.cli.export import export_run, form_of
from crawler.cli.places import Place
from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.errors import FetchError, UsageError
from crawler.loading import code_hash, find
from crawler.progress import Progress, first_line
from crawler.report import render, summarise
from crawler.settings import Layer, Settings, environment_layer, file_layers, flag_layer, resolve
from crawler.spider import Spider
from crawler.urls import canonicalise, is_private
from crawler.wording import duration, plural
from storage import RunState
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.result import CrawlResult
    from crawler.run import Crawl
    from storage import RunRow

__all__ = ["Plan", "command", "run_plans"]

PROGRESS_S = 0.5
MOST_TRACEBACKS = 3
SAME_SIGNAL_S = 0.3
"""A signal that comes twice within this was sent once, to the process and to its group."""
STARTS_LOOKED_AT = 1_000
"""Start URLs by which the expected rate is told."""
EXIT_AT_ONCE = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Plan(NamedTuple):
    """One spider to run."""

    spider: Spider
    settings: Settings
    identity: str
    """Its arguments and start URLs as canonical JSON: what a run is found again by."""
    code: str
    """Hash of its source."""


class UrlFile:
    """Start URLs from a file, read anew at each iteration: one a line, or a CSV column.

    `-` is standard input, which can be read once.
    """

    def __init__(self, where: str) -> None:
        name, colon, column = where.partition(":")
        self.name = name
        self.column = column if colon else None
        if name != "-" and not Path(name).is_file():
            raise UsageError(f"no file `{name}` with URLs", hint="--urls FILE, FILE:COLUMN or -")
        if name != "-" and self.column is not None:
            next(iter(self), None)

    def __repr__(self) -> str:
        return f"<UrlFile {self.name}{':' + self.column if self.column else ''}>"

    def __iter__(self) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            path = Path(self.name)
            lines = sys.stdin if self.name == "-" else stack.enter_context(path.open(newline=""))
            if self.column is None:
                yield from (line.strip() for line in lines if line.strip())
                return
            import csv

            rows = csv.DictReader(lines)
            if self.column not in (rows.fieldnames or ()):
                raise UsageError(
                    f"no column `{self.column}` in {self.name}",
                    hint=f"its columns: {', '.join(rows.fieldnames or ())}",
                )
            yield from (row[self.column] for row in rows if row[self.column])


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="SPIDER|FILE.py[:CLASS]... [URL]...")
@click.option("-a", "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Spider argument.")
@click.option("-s", "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting.")
@click.option("--urls", metavar="FILE[:COLUMN]|-", help="Start URLs from a file or stdin.")
@click.option("--db", metavar="FILE", help="Database; default: <spider>.db here.")
@click.option("-o", "--output", metavar="FILE", help="Also write the items: .jsonl, .csv, .json.")
@click.option("--limit", type=int, metavar="N", help="End after N pages.")
@click.option("--max-time", metavar="D", help="End after a while, e.g. 90s or 2h.")
@click.option("--fresh", is_flag=True, help="Begin a new run even where one could go on.")
@click.option("--resume", is_flag=True, help="Go on with the last run, whatever changed.")
@click.option("--wait", is_flag=True, help="Stay when everything has to wait.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
def command(
    targets: tuple[str, ...],
    args: tuple[str, ...],
    sets: tuple[str, ...],
    urls: str | None,
    db: str | None,
    output: str | None,
    limit: int | None,
    max_time: str | None,
    fresh: bool,
    resume: bool,
    wait: bool,
    quiet: bool,
) -> int:
    """Run spiders, or go on with an interrupted run of the same.

    A spider is a name in spiders/ (`crawler list`), or a file. URLs replace its start
    URLs: `crawler run pages https://example.com/`.
    """
    if fresh and resume:
        raise UsageError("--fresh and --resume exclude each other", hint="give one of them")
    names = [target for target in targets if "://" not in target]
    starts = [target for target in targets if "://" in target]
    if not names:
        raise UsageError("no spider was named", hint=f"crawler run pages {starts[0]}")
    flags = _flags(sets, limit=limit, max_time=max_time, wait=wait)
    plans = [_plan(name, args, starts, urls, flags) for name in names]
    path = Path(db or f"{plans[0].spider.name}.db")
    sink = _sink(output)
    how = "fresh" if fresh else "resume" if resume else "auto"
    results = run_plans(plans, path, how=how, quiet=quiet)
    if sink is not None:
        for result in results:
            export_run(Place(path, result.run), sink)
    return max(result.exit_code for result in results)


def run_plans(
    plans: Sequence[Plan], db: Path, *, how: str = "auto", quiet: bool = False
) -> list[CrawlResult]:
    """Run spiders side by side in one session; `how` is auto, fresh or resume."""
    return run_loop(_run(plans, db, how, quiet))  # type: ignore[no-any-return]


def _plan(
    name: str,
    args: Sequence[str],
    starts: Sequence[str],
    urls: str | None,
    flags: Sequence[Layer],
) -> Plan:
    kind = find(name)
    spider = kind(**_arguments(args))
    identity: dict[str, Any] = dict(spider.arguments)
    if starts:
        spider.start_urls = [_checked(url) for url in starts]
        identity["start_urls"] = spider.start_urls
    if urls is not None:
        spider.start_urls = UrlFile(urls)
        identity["urls"] = urls
    if type(spider).start is Spider.start and spider.start_urls in ((), []):
        raise UsageError(
            f"spider {spider.name} has no start URL", hint=f"crawler run {name} https://…"
        )
    layers = [
        *file_layers(Path()),
        Layer("spider", spider.settings.given()),
        environment_layer(os.environ),
        *flags,
    ]
    return Plan(
        spider=spider,
        settings=resolve(layers),
        identity=msgspec.json.encode(identity, order="deterministic").decode(),
        code=code_hash(kind),
    )


def _arguments(args: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in args:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"argument `{pair}` is not NAME=VALUE", hint="-a max_pages=100")
        found[name.strip()] = value
    return found


def _checked(url: str) -> str:
    try:
        return canonicalise(url).url
    except FetchError as error:
        raise UsageError(f"start URL {error}", hint="give http://… or https://…") from error


def _flags(
    sets: Sequence[str], *, limit: int | None, max_time: str | None, wait: bool
) -> list[Layer]:
    layers = [flag_layer(sets)]
    if limit is not None:
        layers.append(Layer("--limit", {"limit": limit}))
    if max_time is not None:
        layers.append(Layer("--max-time", {"max_time": max_time}))
    if wait:
        layers.append(Layer("--wait", {"patience": float(10**9)}))
    return layers


# -- the run itself ---------------------------------------------------------------------


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
                    _say(_opening(plan, crawl, db, row))
            results = await _watch(session, crawls, quiet)
        finally:
            await session.aclose()
    results = [caught.judge(result) for result in results]
    if not quiet:
        _conclude(db, plans, results)
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
            _say("\nstopped at once; what was not yet stored will be fetched again")
            os._exit(EXIT_AT_ONCE[number])
        self.caught, self._at = number, now
        _say("\nstopping: requests under way may end; once more stops at once")
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


def _say(text: str) -> None:
    click.echo(text, err=True)


def _opening(plan: Plan, crawl: Crawl, db: Path, row: RunRow | None) -> str:
    given = plan.spider.start_urls
    starts = islice(given, STARTS_LOOKED_AT) if isinstance(given, Sequence) else ()
    domains = {canonicalise(url).domain for url in starts if url.startswith("http")}
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


def _conclude(db: Path, plans: Sequence[Plan], results: Sequence[CrawlResult]) -> None:
    with Reader(db) as reader:
        for plan, result in zip(plans, results, strict=True):
            summary = summarise(reader, result.run)
            for failure in [each for each in summary.failures if each.detail][:MOST_TRACEBACKS]:
                _say(f"{failure.code} ×{failure.count}, last: {failure.message}")
                _say(failure.detail.rstrip())
            if result.message is not None:
                _say(f"error: {plan.spider.name}: {result.message}")
                _say((result.detail or "").rstrip())
            _say(render(summary, str(db)))
            if result.waits_s is not None:
                wait = duration(result.waits_s)
                _say(f"nothing can start for {wait}: run it again then, or stay with --wait")
            if result.ended_by == "signal":
                left = plural(result.queued, "URL")
                _say(f"{result.run} stopped; {left} kept. Run the same command again to go on.")


def _sink(output: str | None) -> Path | None:
    if output is None:
        return None
    path = Path(output)
    form_of(path)
    if path.exists():
        raise UsageError(f"{output} is there already", hint="name another file, or remove it")
    return path
