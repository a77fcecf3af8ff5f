"""The part of a hand-written crawl that is the same over every HTTP client.

Owns: 16 workers, a queue, a set of what was seen, titles in a dict; selectolax.
Does not own: fetching. Promises nothing: what fails is a line on stderr, and what the
process had found dies with it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["WORKERS", "Walk"]

WORKERS = 16


class Walk:
    """A crawl of one host."""

    def __init__(self, start: str, pages: int) -> None:
        self._start = start
        self._pages = pages
        self._origin = "{0.scheme}://{0.netloc}/".format(urlsplit(start))
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._taken = 0
        self.titles: dict[str, str | None] = {}
        """Of every HTML page, by URL."""

    async def run(self, fetch: Callable[[str], Awaitable[bytes | None]]) -> int:
        """Fetch every page there is, at most `pages`; how many. `fetch` gives HTML or None."""
        seen = {self._start}
        self._queue.put_nowait(self._start)
        workers = [asyncio.create_task(self._work(fetch, seen)) for _ in range(WORKERS)]
        await self._queue.join()
        for worker in workers:
            worker.cancel()
        return len(self.titles)

    async def _work(self, fetch: Callable[[str], Awaitable[bytes | None]], seen: set[str]) -> None:
        while True:
            url = await self._queue.get()
            try:
                if not self._pages or self._taken < self._pages:
                    self._taken += 1
                    html = await fetch(url)
                    if html is not None:
                        self._read(url, html, seen)
            except Exception as error:
                print(f"{url}: {error!r}", file=sys.stderr)
            finally:
                self._queue.task_done()

    def _read(self, url: str, html: bytes, seen: set[str]) -> None:
        tree = LexborHTMLParser(html)
        title = tree.css_first("title")
        self.titles[url] = title.text(strip=True) if title else None
        for link in self._links(tree):
            target = urljoin(url, link)
            if target not in seen and target.startswith(self._origin):
                seen.add(target)
                self._queue.put_nowait(target)

    def _links(self, tree: LexborHTMLParser) -> Iterator[str]:
        """What the page refers to, once each, without fragments."""
        references = {anchor.attributes["href"] or "" for anchor in tree.css("a[href]")}
        yield from {reference.partition("#")[0] for reference in references} - {""}
