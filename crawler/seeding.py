"""The start requests of a run, stored in batches.

Owns: iterating `Spider.start()`, in whatever form it comes. Does not own: what is done
with a batch (`visits.seed`), or when seeding begins.

Invariants: the mark that says "all stored" is in the commit of the last batch; a batch is
acknowledged before the next one is drawn, so that four million URLs cost no memory.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from crawler.errors import FetchError, SpiderError, StopCrawl
from crawler.harvest import describe
from crawler.plugins import call, is_ours
from crawler.request import Request
from crawler.urls import canonicalise
from storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.run import Crawl
    from crawler.visits import Visits

__all__ = ["seed", "start"]

BATCH = 500
FLUSH_S = 0.2
"""Seconds that a batch waits for a slow source to fill it."""


class _Sower:
    """Collects start requests and stores them batch by batch."""

    def __init__(self, crawl: Crawl, visits: Visits, name: Callable[[str], None]) -> None:
        self._crawl = crawl
        self._visits = visits
        self._name = name
        self._batch: list[Request] = []

    def __repr__(self) -> str:
        return f"<_Sower {len(self._batch)}/{BATCH}>"

    @property
    def is_cut(self) -> bool:
        """The run takes no more."""
        return self._crawl.stopping is not None or self._crawl.is_ending

    async def take(self, request: Any) -> None:
        """One start request more. Raises SpiderError for what is none."""
        if not isinstance(request, Request):
            raise SpiderError(f"start() gave {request!r:.80}; it may give requests only")
        with suppress(FetchError):
            self._name(canonicalise(request.url).domain)
        self._batch.append(request)
        if len(self._batch) >= BATCH:
            await self.sow()

    async def sow(self, *, is_last: bool = False) -> None:
        """Store what there is, and let others have the loop: a store in memory never does."""
        if self._batch or is_last:
            batch, self._batch = self._batch, []
            await self._visits.seed(self._crawl, batch, is_last=is_last)
            await asyncio.sleep(0)


async def seed(crawl: Crawl, visits: Visits, name: Callable[[str], None]) -> None:
    """Store every start request; `name` hears of each domain. Stops when the run does.

    Raises whatever `start()` raises, and SpiderError for what is no request.
    """
    sower = _Sower(crawl, visits, name)
    given: Any = crawl.spider.start()
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, AsyncIterator):
        await _draw(given, sower)
    else:
        for request in given or ():
            if sower.is_cut:
                break
            await sower.take(request)
    if not sower.is_cut:
        await sower.sow(is_last=True)


async def _draw(source: AsyncIterator[Any], sower: _Sower) -> None:
    """An asynchronous source may be slow: what it gave does not wait for what it will give."""
    end: Any = object()
    while not sower.is_cut:
        coming = asyncio.ensure_future(anext(source, end))
        try:
            while not (await asyncio.wait({coming}, timeout=FLUSH_S))[0]:
                await sower.sow()
            request = await coming
        finally:
            coming.cancel()
        if request is end:
            return
        await sower.take(request)


async def start(
    crawl: Crawl,
    visits: Visits,
    name: Callable[[str], None],
    opened: Callable[[Crawl], None],
    stop: Callable[[Crawl, str], None],
) -> None:
    """Call the hooks, then store the start requests unless they all were before.

    `opened(crawl)` is called between the two; what a spider raises stops its run.
    """
    try:
        for hook in crawl.hooks.opened:
            await call(hook)
        opened(crawl)
        if crawl.row.seeded_at is None:
            await seed(crawl, visits, name)
    except StopCrawl:
        stop(crawl, "spider")
    except StorageError:
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if is_ours(error):
            raise
        crawl.broken_by = describe(error)
        stop(crawl, "error")
