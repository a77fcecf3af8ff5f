"""Crawls in code: one call, blocking or not, or a stream of items.

Owns: the short way in. Does not own: anything that a Session does not do itself.

Invariants: without `db` nothing is written to disk; with it the run is the same as the
command's, and may be gone on with by it; a session that was handed in stays open.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from crawler.engine import Session
from crawler.errors import SpiderError
from crawler.layers import Layer, resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crawler.result import CrawlResult
    from crawler.run import Crawl
    from crawler.settings import Settings
    from crawler.spider import Spider

__all__ = ["crawl", "crawl_sync", "run_loop", "settings_of", "stream"]

STREAM_ITEMS = 100
"""Items a stream holds before the crawl waits for its reader."""


async def crawl(
    spider: type[Spider] | Spider,
    *,
    db: str | Path | None = None,
    settings: Settings | None = None,
    session: Session | None = None,
    **arguments: Any,
) -> CrawlResult:
    """Run a spider to its end, as a new run.

    `db` None keeps everything in memory, with the items in `result.items`; a file has
    them in its tables. `settings` go over the spider's own. Several
    crawls at once share domains' pace when they share a `session`. Raises SpiderLoadError
    for wrong arguments, StorageError for an unusable database.
    """
    made = spider if not isinstance(spider, type) else spider(**arguments)
    own = settings_of(made, settings)
    opened = session or await Session.open(db, own)
    running: Crawl | None = None
    try:
        running = await opened.begin(made, settings=own)
        if db is None and session is None:
            running.sink = _keeper(running)
        return await opened.ended(running)
    finally:
        if session is None:
            await opened.aclose()
        elif running is not None:
            session.stop_run(running, "signal")


def crawl_sync(spider: type[Spider] | Spider, **options: Any) -> CrawlResult:
    """`crawl` for code without an event loop; takes the same options."""
    result: CrawlResult = run_loop(crawl(spider, **options))
    return result


async def stream(
    spider: type[Spider] | Spider,
    *,
    db: str | Path | None = None,
    settings: Settings | None = None,
    **arguments: Any,
) -> AsyncIterator[Any]:
    """The items of a crawl, each once it is stored; the crawl waits for its reader.

    Leaving the loop stops the crawl; with `db` it can be gone on with.
    """
    made = spider if not isinstance(spider, type) else spider(**arguments)
    own = settings_of(made, settings)
    queue: asyncio.Queue[Any] = asyncio.Queue(STREAM_ITEMS)
    async with await Session.open(db, own) as session:
        running = await session.begin(made, settings=own)
        running.sink = queue.put
        end = asyncio.ensure_future(session.ended(running))
        try:
            while not (end.done() and queue.empty()):
                item = asyncio.ensure_future(queue.get())
                await asyncio.wait({item, end}, return_when=asyncio.FIRST_COMPLETED)
                if item.done():
                    yield item.result()
                else:
                    item.cancel()
            if (broken := end.result().message) is not None:
                raise SpiderError(broken)
        finally:
            end.cancel()


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


def _keeper(crawl: Crawl) -> Any:
    async def keep(item: Any) -> None:
        crawl.kept.append(item)

    return keep
