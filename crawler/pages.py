"""The general spider: follows every link and keeps one row per page.

Owns: which links belong to a crawl (`same`), and the item `page`. Does not own: how a
link is found in a page (`response`) or what becomes of a page that was not delivered: it
has a row in `requests`, not in `page`.

Invariants: every delivered page is one item; a link is judged by its own URL alone, so a
crawl covers the same pages in whatever order they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from crawler.errors import FetchError, SpiderLoadError
from crawler.items import item
from crawler.request import Request, Results
from crawler.settings import Settings
from crawler.spider import Spider
from crawler.urls import canonicalise, site_of

if TYPE_CHECKING:
    from crawler.response import Response

__all__ = ["Page", "Pages"]


@item(key="url")
class Page:
    """One delivered page."""

    url: str
    title: str | None
    """Stripped text of <title>; None: there is none, or the page is no HTML."""
    status: int
    depth: int
    links: int
    """Distinct http(s) URLs it links to, wherever they lead."""
    bytes: int
    """Of the body, decompressed."""


class Pages(Spider):
    """Every page that can be reached by links, from the URLs given on the command line."""

    same: Literal["host", "site", "prefix"] = "host"
    """Follow links within the page's host (with its port), within its registrable domain,
    or below the start URLs' directories."""
    max_pages: int = 0
    """Pages after which the run ends; 0: no bound."""

    _directories: frozenset[str] | None = None
    """For `prefix`; None: not worked out yet."""

    @property
    def settings(self) -> Settings:
        """`max_pages` as the setting `limit`."""
        if self.max_pages < 0:
            raise SpiderLoadError(
                f"argument max_pages={self.max_pages} of spider {self.name}: expected 0 or more",
                hint="-a max_pages=100; 0: no limit",
            )
        return Settings(limit=self.max_pages) if self.max_pages else super().settings

    def parse(self, page: Response) -> Results:
        """Keep the page, follow its links."""
        links = page.links()
        title = page.get("title", default=None) if page.is_html else None
        yield Page(
            url=page.url,
            title=title or None,
            status=page.status,
            depth=page.depth,
            links=len(links),
            bytes=len(page.body),
        )
        follow = self.parse
        for url in self._within(page, links):
            yield Request(url, follow)

    def _within(self, page: Response, links: list[str]) -> list[str]:
        if self.same == "prefix":
            if self._directories is None:
                self._directories = self._start_directories()
            return [url for url in links if _is_below(url, self._directories)]
        domain = _domain(page.url)
        if self.same == "site":
            site = site_of(domain)
            return [url for url in links if site_of(_domain(url)) == site]
        own = (f"http://{domain}/", f"https://{domain}/")
        return [
            url for url in links if url.startswith(own) or ("@" in url and _domain(url) == domain)
        ]

    def _start_directories(self) -> frozenset[str]:
        """The start URLs up to their last slash."""
        try:
            return frozenset(_directory(canonicalise(url).url) for url in self.start_urls)
        except FetchError as error:
            raise SpiderLoadError(
                f"start URL of spider {self.name}: {error}", hint="give http://… or https://…"
            ) from error


def _directory(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[0] + "/"


def _is_below(url: str, directories: frozenset[str]) -> bool:
    """Whether one of a URL's ancestors is among them: by its depth, however many they are."""
    while url.count("/") > 2:
        directory = _directory(url)
        if directory in directories:
            return True
        url = directory[:-1]
    return False


def _domain(url: str) -> str:
    """Host and port of an absolute, serialised URL."""
    return url.split("/", 3)[2].rpartition("@")[2]
