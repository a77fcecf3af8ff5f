"""The start requests of a run, stored in batches.

Owns: iterating `Spider.start()`, in whatever form it comes. Does not own: what is done
with a batch (`visits.seed`), or when seeding begins.

Invariants: the mark that says "all stored" is in the commit of the last batch; a batch is
acknowledged before the next one is drawn, so that four million URLs cost no memory.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from crawler.errors import FetchError, SpiderError
from crawler.request import Request
from crawler.urls import canonicalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.run import Crawl
    from crawler.visits import Visits

__all__ = ["seed"]

BATCH = 500


async def seed(crawl: Crawl, visits: Visits, name: Callable[[str], None]) -> None:
    """Store every start request; `name` hears of each domain. Stops when the run does.

    Raises whatever `start()` raises, and SpiderError for what is no request.
    """
    batch: list[Request] = []
    async for request in _requests(crawl.spider.start()):
        if crawl.stopping is not None:
            return
        if not isinstance(request, Request):
            raise SpiderError(f"start() gave {request!r:.80}; it may give requests only")
        _tell(request, name)
        batch.append(request)
        if len(batch) >= BATCH:
            await visits.seed(crawl, batch, is_last=False)
            batch = []
    await visits.seed(crawl, batch, is_last=True)


def _tell(request: Request, name: Callable[[str], None]) -> None:
    try:
        name(canonicalise(request.url).domain)
    except FetchError:
        return


async def _requests(given: Any) -> AsyncIterator[Any]:
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, AsyncIterator):
        async for request in given:
            yield request
    else:
        for request in given or ():
            yield request
