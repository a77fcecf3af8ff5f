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
import gc
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from crawler.cli.export import export_result, form_of
from crawler.cli.places import Place
from crawler.cli.sources import UrlPipe, feed, is_pipe, open_urls
from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.errors import FetchError, SettingsError, SpiderLoadError, UsageError
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import code_hash, find
from crawler.pool.budget import check_descriptors
from crawler.progress import Progress, first_line
from crawler.report import render, summarise
from crawler.spider import Spider
from crawler.urls import canonicalise, is_private
from crawler.wording import duration, plural, printable
from storage import RunState
from storage.reading import Reader

if TYPE_CHECKING:
    from crawler.result import CrawlResult
    from crawler.run import Crawl
    from crawler.settings import Settings
    from storage import RunRow

__all__ = ["Plan", "command", "run_plans"]

PROGRESS_S = 0.5
MOST_TRACEBACKS = 3
SAME_SIGNAL_S = 0.3
"""A signal that comes twice within this was sent once, to the process and to its group."""
STARTS_LOOKED_AT = 1_000
"""Start URLs by which the expected rate is told."""
EXIT_UNWRITTEN = 5
EXIT_AT_ONCE = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Plan(NamedTuple):
    """One spider to run."""

    spider: Spider
    settings: Settings
    identity: str
    """Its arguments and start URLs as canonical JSON: what a run is found again by."""
    code: str
    """Hash of its source."""
    pipe: UrlPipe | None = None
    """Where its start URLs come from, when they come while it runs."""


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
    _check_sources(names, starts, urls)
    sink = _sink(output, names)
    flags = _flags(sets, limit=limit, max_time=max_time, wait=wait)
    plans = [_plan(name, args, starts, urls, flags) for name in names]
    path = _database(db, plans)
    how = "fresh" if fresh else "resume" if resume else "auto"
    results = run_plans(plans, path, how=how, quiet=quiet)
    if sink is None:
        return max(result.exit_code for result in results)
    return _write_items(path, results[0], sink)


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


# -- what is asked for --------------------------------------------------------------------


def _check_sources(names: Sequence[str], starts: Sequence[str], urls: str | None) -> None:
    if not names:
        raise UsageError("no spider was named", hint=f"crawler run pages {starts[0]}")
    if starts and urls is not None:
        raise UsageError(
            "start URLs are given twice, by --urls and as arguments", hint="give one of them"
        )
    if urls is not None and len(names) > 1 and is_pipe(urls):
        raise UsageError(
            f"--urls {urls} can be read once, and {len(names)} spiders are named",
            hint="write the URLs to a file first: --urls FILE",
        )


def _sink(output: str | None, names: Sequence[str]) -> Path | None:
    """Where the items are to go; raises UsageError for what could not be written later."""
    if output is None:
        return None
    if len(names) > 1:
        raise UsageError(
            f"-o takes the items of one spider, and {len(names)} are named",
            hint="leave it out; then, for each: crawler export SPIDER --db FILE -o FILE",
        )
    path = Path(output)
    form_of(path)
    if path.exists():
        raise UsageError(f"{output} is there already", hint="name another file, or remove it")
    if not path.parent.is_dir():
        raise UsageError(
            f"{output} has no folder: {path.parent}",
            hint=f"mkdir -p {shlex.quote(str(path.parent))}",
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{output}: the folder may not be written", hint="name another one")
    return path


def _database(db: str | None, plans: Sequence[Plan]) -> Path:
    """The file of these runs. Raises UsageError where there can be none."""
    names = [plan.spider.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"spider {name} is named {names.count(name)} times",
                hint="name it once; two runs at once need a --db each",
            )
    own = f"{names[0]}.db"
    scheme, mark, _ = (db or "").partition("://")
    if mark:
        raise UsageError(f"--db {scheme}://… is no file: only SQLite so far", hint=f"--db {own}")
    if db is not None and (not db.strip() or db in (":memory:", "memory:")):
        raise UsageError(f"--db `{db}` is no file: a run is kept in one", hint=f"--db {own}")
    path = Path(own if db is None else db)
    if path.is_dir():
        raise UsageError(f"--db {path} is a folder", hint=f"a file in it: --db {path / own}")
    return path


def _plan(
    name: str,
    args: Sequence[str],
    starts: Sequence[str],
    urls: str | None,
    flags: Sequence[Layer],
) -> Plan:
    kind = find(name)
    spider, identity, own = _made(kind, _arguments(args))
    layers = [*file_layers(Path()), Layer("spider", own.given())]
    settings = resolve([*layers, environment_layer(os.environ), *flags])
    pipe = None
    if starts:
        spider.start_urls = [_checked(url) for url in starts]
        identity["start_urls"] = spider.start_urls
    if urls is not None:
        identity["urls"] = urls
        source = open_urls(urls)
        if isinstance(source, UrlPipe):
            pipe = source
            feed(spider, pipe)
        else:
            spider.start_urls = source
    elif type(spider).start is Spider.start and spider.start_urls in ((), []):
        raise UsageError(
            f"spider {spider.name} has no start URL", hint=f"crawler run {name} https://…"
        )
    return Plan(
        spider=spider,
        settings=settings,
        identity=msgspec.json.encode(identity, order="deterministic").decode(),
        code=code_hash(kind),
        pipe=pipe,
    )


def _made(kind: type[Spider], arguments: dict[str, str]) -> tuple[Spider, dict[str, Any], Settings]:
    """A spider, its arguments as plain values, its settings.

    Whatever the person's own code raises becomes a SpiderLoadError.
    """
    try:
        spider = kind(**arguments)
        return spider, msgspec.json.decode(spider.canonical_arguments()), spider.settings
    except UsageError as error:
        error.hint = error.hint or "correct its -a NAME=VALUE; left out, the default holds"
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise SpiderLoadError(
            f"spider {kind.name} could not be made: {what}{_user_line(kind, error)}",
            hint="correct its __init__; it passes **arguments on to super().__init__",
        ) from error


def _user_line(kind: type[Spider], error: BaseException) -> str:
    """Where in the spider's own file it was raised; empty: not in there."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    return f" ({os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


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
        hint = "--limit 100; without it there is no bound"
        layers.append(_flag("--limit", "limit", limit, hint))
    if max_time is not None:
        layers.append(_flag("--max-time", "max_time", max_time, "--max-time 90s, 15m or 2h"))
    if wait:
        layers.append(Layer("--wait", {"patience": float(10**9)}))
    return layers


def _flag(origin: str, key: str, value: Any, hint: str) -> Layer:
    layer = Layer(origin, {key: value})
    try:
        resolve([layer])
    except SettingsError as error:
        raise UsageError(str(error), hint=hint) from error
    return layer


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
                if plan.pipe is not None and crawl.row.seeded_at is not None:
                    _say(f"{crawl.row.name} has all its URLs: {plan.pipe.name} is not read")
            results = await _watch(session, crawls, quiet)
        finally:
            await session.aclose()
    results = [caught.judge(result) for result in results]
    if not quiet:
        _conclude(db, results)
    for plan, result in zip(plans, results, strict=True):
        if result.message is not None:
            _say(printable(f"error: {plan.spider.name}: {result.message}"))
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
            _say(f"{_new_line()}stopped at once; what was not yet stored will be fetched again")
            os._exit(EXIT_AT_ONCE[number])
        self.caught, self._at = number, now
        _say(f"{_new_line()}stopping: requests under way may end; once more stops at once")
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
        _say(printable(line))


def _conclude(db: Path, results: Sequence[CrawlResult]) -> None:
    with Reader(db) as reader:
        for result in results:
            summary = summarise(reader, result.run)
            for failure in [each for each in summary.failures if each.detail][:MOST_TRACEBACKS]:
                _say(printable(f"{failure.code} ×{failure.count}, last: {failure.message}"))
                _say_frames(failure.detail)
            _say(render(summary, str(db)))
            if result.waits_s is not None:
                wait = duration(result.waits_s)
                _say(f"nothing can start for {wait}: run it again then, or stay with --wait")
            if result.ended_by == "signal":
                left = plural(result.queued, "URL")
                _say(f"{result.run} stopped; {left} kept. Run the same command again to go on.")


def _write_items(db: Path, result: CrawlResult, sink: Path) -> int:
    """Write the items of a run that has ended; the exit code is the crawl's, unless it was 0
    and the file could not be written."""
    if result.state is not RunState.FINISHED:
        _say(f"{sink} is written when the run has ended: run the same command again")
        return result.exit_code
    try:
        export_result(Place(db, result.run), sink)
    except UsageError as error:
        _say(printable(f"error: {error}"))
        _say(f"  hint: the items are in the database: crawler export {result.run} --db {db}")
        return result.exit_code or EXIT_UNWRITTEN
    return result.exit_code
