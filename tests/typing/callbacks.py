"""What a type checker says about callbacks and their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler import Request, Response, Results, Spider, item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@item(key="url")
class Book:
    url: str
    price: float


class Right(Spider):
    start_urls = ["http://127.0.0.1/"]

    def parse(self, page: Response) -> Results:
        yield from page.follow_all("h3 a", self.book, shelf="poetry").replace(priority=5)
        yield page.follow("next", self.later, 3)
        yield Request("http://127.0.0.1/", self.mapping, args={"a": 1})
        yield Book(url=page.url, price=1.5)
        yield None

    def book(self, page: Response, shelf: str) -> Book:
        return Book(url=page.url, price=float(page.get("p")))

    def mapping(self, page: Response) -> Results:
        return {"url": page.url}

    async def later(self, page: Response, row: int, *, sold: bool = False) -> Results:
        other = await self.fetch(page.follow("more", self.parse))
        return [Book(url=other.url, price=row), page.follow("x", self.stream)]

    async def stream(self, page: Response) -> Results:
        yield Book(url=page.url, price=2)

    def narrow(self, page: Response) -> Iterator[Request]:
        yield page.follow("x", self.narrower)

    async def narrower(self, page: Response) -> AsyncIterator[Book]:
        yield Book(url=page.url, price=2)


class Wrong(Right):
    def wrong(self, page: Response) -> Results:
        yield page.follow("a", self.book)  # E: Missing positional argument "shelf"
        yield page.follow("a", self.book, shelf=3)  # E: incompatible type "int"; expected "str"
        yield page.follow("a", self.book, shell="x")  # E: Unexpected keyword argument "shell"
        yield page.follow("a", self.later, "x")  # E: incompatible type "str"; expected "int"
        yield page.follow("a", "parse")  # E: incompatible type "str"; expected "Callable
        yield page.follow_all("a", self.book, 3)  # E: incompatible type "int"; expected "str"
        yield page.follow_all("a", self.no_page)  # E: incompatible type "Callable[[int], None]"
        yield page.follow_all(3, self.mapping)  # E: incompatible type "int"
        yield Book(url=page.url)  # E: Missing positional argument "price"
        yield Book(url=page.url, price="1")  # E: incompatible type "str"; expected "float"

    def no_page(self, row: int) -> None: ...
