"""The same crawl as a Scrapy spider; its items go to a JSON lines file in this folder."""

# Where Scrapy is not installed, its classes have no types.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import HtmlResponse
from scrapy.linkextractors import LinkExtractor

from benchmarks.loops.figures import arguments, tell
from benchmarks.loops.walk import WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS: dict[str, Any] = {
    "CONCURRENT_REQUESTS": WORKERS,
    "CONCURRENT_REQUESTS_PER_DOMAIN": WORKERS,
    "DOWNLOAD_DELAY": 0,
    "FEEDS": {"pages.jsonl": {"format": "jsonlines"}},
    "LOG_LEVEL": "ERROR",
    "ROBOTSTXT_OBEY": False,
    "TELNETCONSOLE_ENABLED": False,
}


class PagesSpider(scrapy.Spider):
    """One item per HTML page of a host."""

    name = "pages"

    def __init__(self, start: str, pages: int) -> None:
        super().__init__()
        self.start_urls = [start]
        self.allowed_domains = [urlsplit(start).hostname or ""]
        self._pages = pages
        self._taken = 0
        self._links = LinkExtractor()

    def parse(self, response: Any) -> Iterator[Any]:
        """Keep the page, follow its links."""
        if not isinstance(response, HtmlResponse):
            return
        self._taken += 1
        yield {"url": response.url, "title": response.css("title::text").get()}
        if not self._pages or self._taken < self._pages:
            yield from response.follow_all(self._links.extract_links(response))


def main(start: str, pages: int) -> int:
    """Crawl; the number of pages."""
    settings = SETTINGS | {"CLOSESPIDER_ITEMCOUNT": pages}
    if find_spec("uvloop"):
        settings["ASYNCIO_EVENT_LOOP"] = "uvloop.Loop"
    process = CrawlerProcess(settings)
    crawler = process.create_crawler(PagesSpider)
    process.crawl(crawler, start=start, pages=pages)
    process.start()
    assert crawler.stats is not None
    return int(crawler.stats.get_value("item_scraped_count", 0))


if __name__ == "__main__":
    given = arguments()
    tell(main(given.url, given.pages))
