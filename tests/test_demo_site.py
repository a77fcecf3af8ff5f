"""The bookshop is whole: deterministic, closed under its links, and as broken as promised."""

from __future__ import annotations

import gzip
import http.client
import re
import time
from collections.abc import Iterable
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from crawler.demo import shop as spider
from crawler.demo.site import (
    AUTHORS,
    CHAIN,
    DEAD,
    FLAKY,
    MISSING,
    PRIVATE,
    SHOP,
    SLOW,
    Bookshop,
    catalogue,
)
from crawler.request import Request
from crawler.response import Response

if TYPE_CHECKING:
    from crawler.testing import Reply


def html(reply: Reply) -> str:
    packed = ("Content-Encoding", "gzip") in reply.headers
    return (gzip.decompress(reply.body) if packed else reply.body).decode()


def links(shop: Bookshop, number: int, path: str) -> set[tuple[int, str]]:
    """Where the links and the redirect of a page lead, as (number of the address, path)."""
    reply = shop.pages[number, path]
    found = {unescape(link) for link in re.findall(r'href="([^"]+)"', html(reply))}
    found |= {value for name, value in reply.headers if name == "Location"}
    parts = (urlsplit(urljoin(shop.url(path, number), link)) for link in found)
    return {(shop.addresses.index(part.netloc), part.path) for part in parts}


def walk(shop: Bookshop) -> set[tuple[int, str]]:
    """Every URL that the front page leads to, robots.txt or not."""
    seen = {(SHOP, "/")}
    queue = list(seen)
    while queue:
        place = queue.pop()
        if place in shop.pages:
            fresh = links(shop, *place) - seen
            seen |= fresh
            queue += fresh
    return seen


def get(shop: Bookshop, number: int, path: str) -> tuple[int, str]:
    host, port = shop.addresses[number].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def test_the_model_depends_on_the_seed_alone() -> None:
    assert catalogue(7) == catalogue(7)
    assert catalogue(7) != catalogue(8)


def test_titles_and_names_are_unique_so_that_pages_are() -> None:
    for seed in range(20):
        model = catalogue(seed, books=400)
        assert len({book.path for book in model.books}) == 416
        assert len({author.path for author in (*model.authors, model.guest)}) == 31


def test_every_link_leads_to_a_page_the_missing_one_or_the_dead_host() -> None:
    with Bookshop().threaded() as shop:
        unknown = {place for place in walk(shop) if place not in shop.pages}
    assert {number for number, _ in unknown} == {DEAD}


def test_a_walk_finds_what_is_expected() -> None:
    with Bookshop().threaded() as shop:
        found = walk(shop)
        pages = {
            place
            for place in found & set(shop.pages)
            if shop.pages[place].status == 200 and place[1] not in PRIVATE
        }
        bodies = [html(shop.pages[place]) for place in pages]
        expected = shop.expected()
    assert expected.pages == len(pages)
    assert expected.pages_by_host == tuple(
        sum(number == host for number, _ in pages) for host in range(5)
    )
    assert expected.books == sum('<article class="book">' in body for body in bodies)
    assert expected.authors == sum('<article class="author">' in body for body in bodies)
    assert expected.redirects == sum(shop.pages[p].status == 302 for p in found - dead(found))
    assert expected.missing == sum(shop.pages[p].status == 404 for p in found - dead(found))
    assert expected.robots == sum(path in PRIVATE for _, path in found)
    assert expected.unreachable == len(dead(found))
    assert expected.requests == len(found)


def dead(found: set[tuple[int, str]]) -> set[tuple[int, str]]:
    return {place for place in found if place[0] == DEAD}


def test_only_the_redirect_leads_to_the_guest() -> None:
    with Bookshop().threaded() as shop:
        guest = (AUTHORS, shop.catalogue.guest.path)
        sources = {place for place in shop.pages if guest in links(shop, *place)}
    assert sources == {(SHOP, CHAIN[-1])}


def test_a_page_shows_its_book() -> None:
    with Bookshop().threaded() as shop:
        book = next(book for book in shop.catalogue.books if book.stock)
        status, text = get(shop, SHOP, book.path)
    assert status == 200
    assert f"<h1>{book.title}</h1>" in text
    assert f"£{book.price / 100:.2f}" in text
    assert f"In stock: {book.stock}" in text
    assert f'data-stars="{book.stars}"' in text


def test_the_shop_forbids_its_private_pages_and_the_others_have_no_robots_file() -> None:
    with Bookshop().threaded() as shop:
        assert get(shop, SHOP, "/robots.txt")[1].endswith("Disallow: /private/\n")
        assert get(shop, AUTHORS, "/robots.txt")[0] == 404
        assert get(shop, FLAKY, "/robots.txt")[0] == 404
        assert get(shop, SHOP, MISSING)[0] == 404


def test_each_page_of_the_flaky_host_fails_twice() -> None:
    with Bookshop().threaded() as shop:
        book = shop.catalogue.on(FLAKY)[0]
        assert [get(shop, FLAKY, "/")[0] for _ in range(4)] == [503, 503, 200, 200]
        assert [get(shop, FLAKY, book.path)[0] for _ in range(3)] == [503, 503, 200]


def test_the_slow_host_is_slow() -> None:
    with Bookshop().threaded() as shop:
        began = time.monotonic()
        assert get(shop, SLOW, "/")[0] == 200
        assert time.monotonic() - began >= 0.12


def harvest(shop: Bookshop) -> tuple[list[object], set[str]]:
    """The items of the spider `demo`, fed from the model, and the URLs it asked for."""
    crawl = spider.Shop(site=shop.start_url)
    items: list[object] = []
    queue: list[object] = list(as_results(crawl.start()))
    seen: set[str] = set()
    while queue:
        result = queue.pop()
        if not isinstance(result, Request):
            items.append(result)
        elif result.url not in seen:
            seen.add(result.url)
            parts = urlsplit(result.url)
            number = shop.addresses.index(parts.netloc)
            reply = shop.pages.get((number, parts.path))
            location = dict(reply.headers).get("Location") if reply else None
            if location:
                queue.append(result.replace(url=urljoin(result.url, location)))
            elif reply and reply.status == 200 and parts.path not in PRIVATE:
                page = Response(result, result.url, 200, (), html(reply).encode())
                queue += as_results((result.callback or crawl.parse)(page))
    return items, seen


def as_results(value: object) -> Iterable[object]:
    return value if isinstance(value, Iterable) else [value]


def test_the_spider_finds_every_book_and_author_and_asks_for_every_url() -> None:
    with Bookshop().threaded() as shop:
        items, asked = harvest(shop)
        places = {shop.url(path, number) for number, path in walk(shop)}
        expected = shop.expected()
    books = [item for item in items if isinstance(item, spider.Book)]
    authors = [item for item in items if isinstance(item, spider.Author)]
    assert (len(books), len(authors)) == (expected.books, expected.authors)
    assert asked == places
    assert len(asked) == expected.requests


def test_what_the_spider_reads_is_what_the_model_says() -> None:
    with Bookshop().threaded() as shop:
        items, _ = harvest(shop)
    read = {
        (b.title, b.author, b.shelf, round(b.price * 100), b.stock, b.stars)
        for b in items
        if isinstance(b, spider.Book)
    }
    assert read == {
        (b.title, b.author.name, b.shelf, b.price, b.stock, b.stars) for b in shop.catalogue.books
    }
    people = {(a.name, a.country, a.born) for a in items if isinstance(a, spider.Author)}
    model = shop.catalogue
    assert people == {(a.name, a.country, a.born) for a in (*model.authors, model.guest)}
