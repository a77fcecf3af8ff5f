"""The same crawl with Crawlee: queue and items in memory, or in SQLite in this folder."""

from __future__ import annotations

import logging
from typing import Any

from crawlee import ConcurrencySettings
from crawlee.crawlers import ParselCrawler
from crawlee.storage_clients import MemoryStorageClient, SqlStorageClient

from benchmarks.loops.figures import arguments, run_loop, tell
from benchmarks.loops.walk import WORKERS


async def keep(context: Any) -> None:
    """Keep the page, follow its links."""
    title = context.selector.css("title::text").get()
    await context.push_data({"url": context.request.url, "title": title})
    await context.enqueue_links(strategy="same-hostname")


async def main(start: str, pages: int, kind: str) -> int:
    """Crawl; the number of pages."""
    logging.disable(logging.WARNING)
    if kind == "memory":
        return await _crawl(start, pages, MemoryStorageClient())
    async with SqlStorageClient(connection_string="sqlite+aiosqlite:///crawlee.db") as storage:
        return await _crawl(start, pages, storage)


async def _crawl(start: str, pages: int, storage: Any) -> int:
    crawler = ParselCrawler(
        storage_client=storage,
        max_requests_per_crawl=pages or None,
        concurrency_settings=ConcurrencySettings(
            min_concurrency=WORKERS, desired_concurrency=WORKERS, max_concurrency=WORKERS
        ),
        configure_logging=False,
    )
    crawler.router.default_handler(keep)
    statistics = await crawler.run([start])
    return int(statistics.requests_finished)


if __name__ == "__main__":
    given = arguments("memory", "sql")
    tell(run_loop(main(given.url, given.pages, given.kind)))
