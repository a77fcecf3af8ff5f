"""The practice bookshop: listing pages lead to product pages, and to the next listing."""

from __future__ import annotations

import re

from crawler import Response, Results, Spider, item

STARS = {"One": 1, "Two": 2, "Three": 3, "Four": 4, "Five": 5}


@item(key="url")
class Book:
    """One product page."""

    url: str
    title: str
    price: float
    """Pounds, with tax."""
    stock: int
    """Copies; 0: sold out."""
    stars: int | None
    category: str
    upc: str


class Books(Spider):
    """https://books.toscrape.com: 1,000 books on 50 listing pages."""

    start_urls = ["https://books.toscrape.com/"]

    def parse(self, page: Response) -> Results:
        """A listing."""
        yield from page.follow_all("article.product_pod h3 a", self.book)
        yield from page.follow_all("li.next a", self.parse)

    def book(self, page: Response) -> Book:
        """A product."""
        copies = re.search(r"\((\d+) available\)", page.get("p.availability"))
        stars = page.get("div.product_main p.star-rating", "class").split()[-1]
        return Book(
            url=page.url,
            title=page.get("h1"),
            price=float(page.get("div.product_main p.price_color").lstrip("£")),
            stock=int(copies[1]) if copies else 0,
            stars=STARS.get(stars),
            category=page.getall("ul.breadcrumb li a")[-1],
            upc=page.get("table.table-striped td"),
        )
