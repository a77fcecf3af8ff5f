"""Crawls in code: one call, blocking or not, or a stream of items.

Owns: the short way in: for scripts, for notebooks, for programs with a loop of their own.
Does not own: anything that a Session does not do itself.

Invariants: without `db` nothing is written to disk; with it the run is the same as the
command's, and may be gone on with by it; a session that was handed in stays open; whatever
ends a crawl, a cancelled task or Ctrl-C too, its state is kept and its session closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crawler.asked import check, identity_of, made, run_of
from crawler.engine import Session
from crawler.errors import SpiderError, UsageError
from crawler.layers import Layer, resolve
from crawler.loading import code_hash
from crawler.report import render, summarise
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine
    from pathlib import Path
    from types import FrameType

    from crawler.asked import Resume
    from crawler.result import CrawlResult
    from crawler.run import Crawl
    from crawler.settings import Settings
    from crawler.spider import Spider

__all__ = ["crawl", "crawl_sync", "run_loop", "settings_of", "stream"]

STREAM_ITEMS = 100
"""Items a stream holds before the crawl waits for its reader."""


async def crawl(
    spider: type[Spider] | Spider,
    /,
    *,
    db: str | Path | None = None,
    settings: Settings | None = None,
    session: Session | None = None,
    resume: Resume = False,
    **arguments: Any,
) -> CrawlResult:
    """Run a spider to its end.

    `db` None keeps everything in memory. `settings` go over the spider's own. Several
    crawls at once share domains' pace when they share a `session`, which then has the
    database. `resume` says whether a run of the database is gone on with. Other arguments
    are the spider's. Cancelled, it keeps what was done: the run can be gone on with.

    Raises UsageError, SettingsError or SpiderLoadError for what cannot be crawled,
    StorageError for an unusable database.
    """
    one = made(spider, arguments)
    check(one, db, settings, session, resume)
    own = settings_of(one, settings)
    opened = session or await Session.open(db, own)
    running: Crawl | None = None
    try:
        running = await _begin(opened, one, own, resume)
        if opened.store.path is None:
            running.sink = _keeper(running)
        return _readable(await opened.ended(running), opened)
    finally:
        if session is None:
            await opened.aclose()
        elif running is not None:
            session.stop_run(running, "signal")


def crawl_sync(
    spider: type[Spider] | Spider,
    /,
    *,
    db: str | Path | None = None,
    settings: Settings | None = None,
    resume: Resume = False,
    **arguments: Any,
) -> CrawlResult:
    """`crawl` for code that does not await. Ctrl-C keeps the state, as a signal does.

    Beside a running event loop, as in a notebook's cell, it runs in a thread with a loop of
    its own, and the caller waits. Raises what `crawl` raises.
    """
    if "session" in arguments:
        raise UsageError(
            "crawl_sync() takes no session: that belongs to the event loop that opened it",
            hint="await crawl(..., session=session)",
        )
    work = crawl(spider, db=db, settings=settings, resume=resume, **arguments)
    try:
        return _in_a_thread(work) if _has_loop() else run_loop(work)
    except KeyboardInterrupt:
        stopped = KeyboardInterrupt()
        if db is not None:
            stopped.add_note(f'hint: crawl_sync(..., db="{db}", resume="auto") goes on with it')
        raise stopped from None


async def stream(
    spider: type[Spider] | Spider,
    /,
    *,
    db: str | Path | None = None,
    settings: Settings | None = None,
    resume: Resume = False,
    **arguments: Any,
) -> AsyncGenerator[Any, None]:
    """The items of a crawl, each once it is stored; the crawl waits for its reader.

    Leaving the loop stops the crawl; with `db` it can be gone on with. Where the loop may
    end by an error that is kept, as a notebook keeps the last one, close it in time:
    `async with contextlib.aclosing(stream(Books)) as books:`. Raises what `crawl` raises,
    and SpiderError when `start()` broke.
    """
    one = made(spider, arguments)
    check(one, db, settings, None, resume)
    own = settings_of(one, settings)
    session = await Session.open(db, own)
    end: asyncio.Future[CrawlResult] | None = None
    coming: asyncio.Future[Any] | None = None
    try:
        queue: asyncio.Queue[Any] = asyncio.Queue(STREAM_ITEMS)
        running = await _begin(session, one, own, resume)
        running.sink = queue.put
        end = asyncio.ensure_future(session.ended(running))
        while not (end.done() and queue.empty()):
            coming = asyncio.ensure_future(queue.get())
            await asyncio.wait({coming, end}, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                yield coming.result()
            else:
                coming.cancel()
        if (broken := end.result().message) is not None:
            raise SpiderError(broken)
    finally:
        for future in (end, coming):
            if future is not None and not future.cancel() and not future.cancelled():
                future.exception()  # nobody else will ask for it
        await session.aclose()


def settings_of(spider: Spider, over: Settings | None = None) -> Settings:
    """A spider's settings with others over them."""
    layers = [Layer("spider", spider.settings.given())]
    if over is not None:
        layers.append(Layer("code", over.given()))
    return resolve(layers)


def run_loop(work: Any) -> Any:
    """Run a coroutine on the quickest loop there is (uvloop, where it exists)."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


# -- how it begins and ends -------------------------------------------------------------------


async def _begin(session: Session, spider: Spider, settings: Settings, resume: Resume) -> Crawl:
    identity, code = identity_of(spider), code_hash(type(spider))
    row = await run_of(session, spider, identity, code, resume) if resume else None
    return await session.begin(
        spider, settings=settings, resume=row, code_hash=code, identity=identity
    )


def _readable(result: CrawlResult, session: Session) -> CrawlResult:
    path = session.store.path
    return result if path is None else replace(result, stored_in=StoredRun(path, result.run))


class StoredRun:
    """A run in a file, which is open only while it is read; its items are read once."""

    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._run = run
        self._items: list[Any] | None = None

    def __repr__(self) -> str:
        return f"<StoredRun {self._run} in {self._path}>"

    def items(self) -> list[Any]:
        """Its items as dicts, table by table. Raises StorageError when the file is gone."""
        if self._items is None:
            with Reader(self._path) as reader:
                self._items = [
                    dict(zip(columns, row, strict=True))
                    for columns, rows in (
                        reader.items(table, run=self._run) for table in reader.tables()
                    )
                    for row in rows
                ]
        return self._items

    def report(self) -> str:
        """Its summary. Raises StorageError when the file is gone."""
        with Reader(self._path) as reader:
            return render(summarise(reader, self._run), self._path)


def _keeper(crawl: Crawl) -> Any:
    async def keep(item: Any) -> None:
        crawl.kept.append(item)

    return keep


# -- beside a loop ----------------------------------------------------------------------------


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_a_thread(work: Coroutine[Any, Any, CrawlResult]) -> CrawlResult:
    """Run it on a loop of its own in a thread, and wait. Ctrl-C cancels it, whoever else
    listens to it: a running loop may keep it from becoming a KeyboardInterrupt."""
    answer: Future[CrawlResult] = Future()
    begun: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    stops: list[int] = []

    async def main() -> CrawlResult:
        task = asyncio.current_task()
        assert task is not None
        begun.append((task.get_loop(), task))
        if stops:
            work.close()
            raise KeyboardInterrupt
        return await work

    def live() -> None:
        try:
            answer.set_result(run_loop(main()))
        except BaseException as error:
            answer.set_exception(error)

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)
        for loop, task in begun:
            with suppress(RuntimeError):  # it is closed already
                loop.call_soon_threadsafe(task.cancel)
        if callable(before):
            before(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if is_main else None
    thread = threading.Thread(target=contextvars.copy_context().run, args=(live,), name="crawl")
    if callable(before):
        signal.signal(signal.SIGINT, stop)
    thread.start()
    try:
        return answer.result()
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        try:
            thread.join()
        finally:  # a second Ctrl-C does not wait
            if callable(before):
                signal.signal(signal.SIGINT, before)
