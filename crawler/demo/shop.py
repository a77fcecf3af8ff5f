"""The spider of `crawler demo`; it knows where the bookshop (`demo.site`) keeps what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.items import item
from crawler.request import Request, Results
from crawler.retry import Retry
from crawler.settings import DomainSettings, Settings
from crawler.spider import Spider

if TYPE_CHECKING:
    from crawler.response import Response

__all__ = ["Author", "Book", "Shop"]


@item(key="url")
class Book:
    """One book. `price` in pounds; `stock` 0: sold out; `stars` 1 to 5."""

    url: str
    title: str
    author: str
    shelf: str
    price: float
    stock: int
    stars: int


@item(key="url")
class Author:
    """Whoever wrote one."""

    url: str
    name: str
    country: str
    born: int


class Shop(Spider):
    """Every book and author of the bookshop; `site` is the URL of its front page."""

    name = "demo"
    site: str
    settings = Settings(domain=DomainSettings(delay=0.0))
    retry = Retry(attempts=3, wait=0.2, max_wait=1.0)

    def start(self) -> Results:
        """The front page."""
        yield Request(self.site)

    def parse(self, page: Response) -> Results:
        """The front page and listings; some links lead where no crawler may or can go."""
        yield from page.follow_all("nav a, a[rel=next]", self.parse)
        yield from page.follow_all("li.card h2 a", self.book)
        yield from page.follow_all("ul.authors a, ul.notices a", self.author)

    def book(self, page: Response) -> Results:
        """A book, and its author."""
        yield from page.follow_all("p.by a", self.author)
        yield Book(
            url=page.url,
            title=page.get("h1"),
            author=page.get("p.by a"),
            shelf=page.get("p.shelf a"),
            price=float(page.get("p.price").removeprefix("£")),
            stock=int(page.get("p.stock", "data-count")),
            stars=int(page.get("p.rating", "data-stars")),
        )

    def author(self, page: Response) -> Author:
        """An author; most are met many times and fetched once."""
        return Author(
            url=page.url,
            name=page.get("h1"),
            country=page.get("p.country"),
            born=int(page.get("p.born")),
        )
