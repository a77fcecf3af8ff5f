"""One wide crawl, many hosts and few pages of each: `python -m benchmarks.wide CASE URLS`.

Owns: how each crawler is used, and its last line: pages got, requests it says failed.
Does not own: the hosts (`hosts`), the limit it runs under, what is counted of the process
(`descriptors`).

Invariants: every crawl goes through the start URLs and their links, obeys its own
defaults but for what its label says, logs errors as lines that begin with their level,
and stays, its event loop running where it has one, until stdin ends.
"""

# Where Scrapy is not installed, its classes have no types.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Case = Callable[[Sequence[str]], None]
    """Crawls from start URLs and tells what it got."""

__all__ = ["CASES"]

BROAD = 100
"""Requests at once that Scrapy's manual names for crawls of many hosts."""


def ours(urls: Sequence[str]) -> None:
    """A spider in code, its database in this folder."""
    from crawler import Response, Results, Spider, crawl

    got: set[str] = set()

    class Wide(Spider):
        """One item per page."""

        start_urls = list(urls)

        def parse(self, page: Response) -> Results:
            """Keep the page, follow its links."""
            got.add(page.url)
            yield {"url": page.url, "title": page.get("title", default=None)}
            yield from page.follow_all("a", self.parse)

    async def run() -> None:
        result = await crawl(Wide, db="wide.db")
        tell(len(got), result.failed)
        await asyncio.to_thread(sys.stdin.read)

    run_quickly(run())


def scrapy(urls: Sequence[str], *, at_once: int | None) -> None:
    """A spider with its items in a JSON lines file; `at_once` None: as installed."""
    from scrapy import Spider
    from scrapy.crawler import CrawlerProcess

    got: set[str] = set()
    failed: set[str] = set()

    class Wide(Spider):
        """One item per page."""

        name = "wide"
        start_urls = list(urls)

        async def start(self) -> Any:
            """The start requests, with an errback."""
            async for request in super().start():
                yield request.replace(errback=self.lose)

        def parse(self, response: Any) -> Iterator[Any]:
            """Keep the page, follow its links."""
            got.add(response.url)
            yield {"url": response.url, "title": response.css("title::text").get()}
            yield from response.follow_all(css="a", errback=self.lose)

        def lose(self, failure: Any) -> None:
            """Count what failed."""
            failed.add(failure.request.url)

    settings: dict[str, Any] = {
        "FEEDS": {"pages.jsonl": {"format": "jsonlines"}},
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
    }
    settings |= {} if at_once is None else {"CONCURRENT_REQUESTS": at_once}
    if find_spec("uvloop"):
        settings["ASYNCIO_EVENT_LOOP"] = "uvloop.Loop"
    process = CrawlerProcess(settings, install_root_handler=False)
    process.crawl(Wide)
    process.start()
    tell(len(got), len(failed))
    sys.stdin.read()


def crawlee(urls: Sequence[str], *, at_once: int | None) -> None:
    """A ParselCrawler, queue and items in memory; `at_once` None: as installed."""
    from crawlee import ConcurrencySettings
    from crawlee.crawlers import ParselCrawler
    from crawlee.storage_clients import MemoryStorageClient

    got: set[str] = set()

    async def keep(context: Any) -> None:
        got.add(context.request.url)
        title = context.selector.css("title::text").get()
        await context.push_data({"url": context.request.url, "title": title})
        await context.enqueue_links(strategy="same-hostname")

    async def run() -> None:
        options: dict[str, Any] = {}
        if at_once is not None:
            options["concurrency_settings"] = ConcurrencySettings(
                desired_concurrency=at_once, max_concurrency=at_once
            )
        crawler = ParselCrawler(
            storage_client=MemoryStorageClient(), configure_logging=False, **options
        )
        crawler.router.default_handler(keep)
        statistics = await crawler.run(list(urls))
        tell(len(got), int(statistics.requests_failed))
        await asyncio.to_thread(sys.stdin.read)

    run_quickly(run())


CASES: dict[str, tuple[str, Case]] = {
    "ours": ("crawler", ours),
    "Scrapy": ("scrapy", partial(scrapy, at_once=None)),
    f"Scrapy, {BROAD} at once": ("scrapy", partial(scrapy, at_once=BROAD)),
    "Crawlee": ("crawlee", partial(crawlee, at_once=None)),
    f"Crawlee, {BROAD} at once": ("crawlee", partial(crawlee, at_once=BROAD)),
}
"""The module each case needs, and the case."""


def run_quickly(work: Any) -> None:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def tell(got: int, failed: int) -> None:
    """The crawl has ended."""
    print(json.dumps({"got": got, "failed": failed}), flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("urls", type=Path, help="a file with a URL on each line")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    CASES[given.case][1](given.urls.read_text(encoding="utf-8").split())


if __name__ == "__main__":
    _main()
