"""Spiders: arguments, callbacks by name, hooks, and the bundled spiders on bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

from crawler.errors import NoMatch, SpiderError, SpiderLoadError
from crawler.pages import Page, Pages
from crawler.plugins import Plugin, hooks
from crawler.request import Request, decode, encode
from crawler.response import Response
from crawler.retry import Retry
from crawler.settings import Settings
from crawler.spider import Spider
from spiders.books import Book, Books
from spiders.quotes import Quote, Quotes

if TYPE_CHECKING:
    from crawler.request import Results

HTML = [(b"content-type", b"text/html; charset=utf-8")]


def page_of(body: str, url: str = "http://127.0.0.1/", depth: int = 0) -> Response:
    return Response(Request(url), url, 200, HTML, body.encode(), depth)


def given_by(results: Results) -> list[Any]:
    assert isinstance(results, Iterable)
    return list(results)


class Shop(Spider):
    start_urls = ["http://127.0.0.1/"]
    settings = Settings(limit=3)
    retry = Retry(attempts=5)

    shelf: str
    max_pages: int = 0
    same: Literal["host", "site"] = "host"
    ratio: float | None = None
    tags: list[str] = []
    seen: ClassVar[set[str]] = set()
    _cache: dict[str, str] = {}

    def parse(self, page: Response) -> Results:
        yield page.follow("/book", self.book, row=1)

    def book(self, page: Response, *, row: int) -> None: ...


# Arguments ----------------------------------------------------------------------------


def test_arguments_come_as_values_or_as_text() -> None:
    shop = Shop(shelf="7", max_pages="3", same="site", ratio="0.5", tags='["a"]')
    assert shop.arguments == {
        "shelf": "7",
        "max_pages": 3,
        "same": "site",
        "ratio": 0.5,
        "tags": ["a"],
    }
    assert shop.max_pages == 3
    assert Shop(shelf="7", max_pages=3).arguments["ratio"] is None


def test_equal_arguments_have_one_canonical_form() -> None:
    first, second = Shop(shelf="x", max_pages="2"), Shop(max_pages=2, same="host", shelf="x")
    assert first.canonical_arguments() == second.canonical_arguments()
    assert first.canonical_arguments() == (
        '{"max_pages":2,"ratio":null,"same":"host","shelf":"x","tags":[]}'
    )


def test_a_default_that_can_change_belongs_to_one_spider_alone() -> None:
    first, second = Shop(shelf="x"), Shop(shelf="x")
    first.tags.append("a")
    assert second.tags == Shop.tags == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_pages": "three"}, "argument max_pages=three of spider shop: expected int"),
        ({"same": "planet"}, "argument same=planet of spider shop: expected one of host, site"),
        ({"ratio": "x"}, "argument ratio=x of spider shop: expected float | None"),
        ({"tags": "[1]"}, "argument tags=[1] of spider shop: expected list[str]"),
        ({"shelf": 5}, "argument shelf=5 of spider shop: expected str"),
        ({"max_pagse": 1}, "spider shop has no argument max_pagse"),
        ({"seen": "a"}, "spider shop has no argument seen"),
        ({"start_urls": "a"}, "spider shop has no argument start_urls"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpiderLoadError) as caught:
        Shop(**{"shelf": "x"} | arguments)
    assert str(caught.value) == message


def test_a_mistyped_argument_gets_the_nearest_name_and_all_of_them() -> None:
    with pytest.raises(SpiderLoadError) as caught:
        Shop(max_page=1)
    assert caught.value.hint == (
        "did you mean max_pages? its arguments: shelf, max_pages, same, ratio, tags"
    )


def test_a_required_argument_must_be_given() -> None:
    with pytest.raises(SpiderLoadError, match="needs the argument shelf") as caught:
        Shop()
    assert caught.value.hint == "-a shelf=..."


def test_state_that_looks_like_an_argument_is_named_when_it_has_no_json_form() -> None:
    class Odd(Spider):
        state: Any = object()

    with pytest.raises(SpiderLoadError, match="no JSON form"):
        Odd().canonical_arguments()


# Attributes ---------------------------------------------------------------------------


def _unmade() -> list[tuple[str, Any, str]]:
    return [
        ("start_urls", "http://127.0.0.1/", 'start_urls = ["https://..."]'),
        ("start_urls", b"http://127.0.0.1/", 'start_urls = ["https://..."]'),
        ("start_urls", [1, 2], 'start_urls = ["https://..."]'),
        ("start_urls", None, 'start_urls = ["https://..."]'),
        ("start_urls", lambda self: [], 'start_urls = ["https://..."]'),
        ("allowed_domains", "example.com", "allowed_domains = ['example.com']"),
        ("allowed_domains", ["https://Example.com/a"], "allowed_domains = ['example.com']"),
        ("allowed_domains", ["*.example.com"], "allowed_domains = ['example.com']"),
        ("allowed_domains", ["bücher.example:80"], "allowed_domains = ['xn--bcher-kva.example']"),
        ("allowed_domains", ["a", ""], 'allowed_domains = ["example.com"]'),
        ("allowed_domains", 5, 'allowed_domains = ["example.com"]'),
        ("allowed_domains", [5], 'allowed_domains = ["example.com"]'),
        ("statuses", 404, "statuses = [404]"),
        ("statuses", "404", "statuses = [404]"),
        ("statuses", ["404"], "statuses = [404]"),
        ("retry", 5, "retry = Retry(attempts=5)"),
        ("retry", Retry, "Retry is a class, make one of it: retry = Retry()"),
        ("plugins", Stamp("a"), "plugins = [MyPlugin()]"),
        ("plugins", [Stamp], "Stamp is a class, make one of it: plugins = [Stamp()]"),
        ("plugins", ["stamp"], "plugins = [MyPlugin()]"),
        ("settings", {"limit": 3}, "settings = Settings(limit=100)"),
        ("settings", Settings, "Settings is a class, make one of it: settings = Settings()"),
    ]


def test_an_attribute_that_would_break_the_crawl_is_refused_with_how_to_write_it() -> None:
    for name, value, hint in _unmade():
        with pytest.raises(SpiderLoadError, match=f"spider odd: {name} must be") as caught:
            type("Odd", (Spider,), {name: value})()
        assert caught.value.hint == hint


def test_right_attributes_are_taken_in_every_shape() -> None:
    class Fine(Spider):
        start_urls = (f"http://127.0.0.1/{n}" for n in range(2))
        allowed_domains = {"example.com", "127.0.0.1:8080", "[::1]", "xn--bcher-kva.example"}
        statuses = range(400, 500)
        plugins = (Stamp("a"),)

    assert len(given_by(Fine().start())) == 2


def test_a_property_may_need_what_the_spiders_own_init_sets() -> None:
    class Late(Spider):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self._city = "x"

        @property
        def start_urls(self) -> list[str]:  # type: ignore[override]
            return [f"http://127.0.0.1/{self._city}"]

    assert [request.url for request in given_by(Late().start())] == ["http://127.0.0.1/x"]


# Names --------------------------------------------------------------------------------


def test_a_spider_is_named_after_its_class_unless_it_names_itself() -> None:
    class Named(Shop):
        name = "my-shop_2"

    class Unnamed(Named):
        pass

    assert (Shop.name, Named.name, Unnamed.name) == ("shop", "my-shop_2", "unnamed")


@pytest.mark.parametrize("wrong", ["", "../x", "A", "a b", "-a"])
def test_a_name_that_could_not_be_a_file_is_refused(wrong: str) -> None:
    with pytest.raises(SpiderLoadError, match="name of a spider"):
        type("Bad", (Spider,), {"name": wrong})


def test_a_table_of_the_databases_own_is_refused_at_import() -> None:
    with pytest.raises(SpiderLoadError, match="requests"):
        type("Bad", (Spider,), {"table": "requests"})


# Start and callbacks ------------------------------------------------------------------


def test_start_asks_for_the_start_urls() -> None:
    shop = Shop(shelf="x")
    assert given_by(shop.start()) == [Request("http://127.0.0.1/", shop.parse)]


def test_start_may_be_an_async_generator() -> None:
    class Slow(Spider):
        async def start(self) -> AsyncIterator[Request]:
            yield Request("http://127.0.0.1/")

    assert isinstance(Slow().start(), AsyncIterator)


def test_a_request_of_a_spider_survives_as_a_row() -> None:
    shop = Shop(shelf="x")
    retry = Retry(attempts=7, statuses=frozenset({503, 500}))
    request = Request("http://127.0.0.1/b", shop.book, args={"row": 3}, retry=retry)
    again = decode(request.url, "GET", 0, encode(request, request.url), shop)
    assert again.callback == shop.book
    assert again.args == {"row": 3}
    assert again.retry == Retry(attempts=7, statuses=(500, 503))


def test_a_callback_that_is_gone_is_named_with_the_nearest_one() -> None:
    shop = Shop(shelf="x")
    payload = encode(Request("http://127.0.0.1/", shop.book), "http://127.0.0.1/")
    assert payload is not None
    with pytest.raises(SpiderError, match=r"spider shop has no callback bookk.*book\?"):
        decode("http://127.0.0.1/", "GET", 0, payload.replace("book", "bookk"), shop)
    for name in ("start_urls", "shelf", "nothing_like_it"):
        with pytest.raises(SpiderError, match=name):
            shop.callback(name)


def test_a_spider_without_parse_says_so() -> None:
    class Empty(Spider):
        pass

    with pytest.raises(SpiderError, match="has no parse"):
        Empty().parse(page_of(""))


def test_settings_are_an_attribute_or_a_property() -> None:
    assert Shop(shelf="x").settings.limit == 3
    assert Pages(max_pages="7").settings.limit == 7
    assert Pages().settings == Settings()
    with pytest.raises(SpiderLoadError, match="max_pages=-1"):
        assert Pages(max_pages=-1).settings


# Hooks --------------------------------------------------------------------------------


class Stamp(Plugin):
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def on_item(self, item: Any, page: Response) -> Any:
        return item + self.mark

    async def opened(self) -> None: ...


def test_hooks_are_the_overridden_ones_plugins_before_the_spider() -> None:
    class Hooked(Spider):
        plugins = [Stamp("a"), Stamp("b")]

        def on_item(self, item: Any, page: Response) -> Any:
            return item + "c"

    found = hooks(Hooked())
    item = ""
    for call in found.on_item:
        item = call(item, page_of(""))
    assert item == "abc"
    assert len(found.opened) == 2
    assert found.before_request == found.closed == found.after_response == []
    assert repr(found) == "<Hooks 2 opened, 3 on_item>"
    assert repr(hooks(Shop(shelf="x"))) == "<Hooks none>"


def test_a_hook_that_is_not_overridden_changes_nothing() -> None:
    plugin, request = Plugin(), Request("http://127.0.0.1/")
    assert plugin.before_request(request) is request
    assert plugin.on_item("item", page_of("")) == "item"


# The general spider -------------------------------------------------------------------

LINKS = """<title> A  page </title>
<a href="/a/b">1</a><a href="/a/b#x">2</a><a href="http://www.example.com/">3</a>
<a href="http://example.com:8080/">4</a><a href="https://shop.example.com/a/c">5</a>
<a href="http://u@shop.example.com/a/d">6</a><a href="http://shop.example.com.evil.test/">7</a>"""
HERE = "http://shop.example.com/a/"


def test_pages_keeps_every_page_and_counts_all_its_links() -> None:
    first, *_ = given_by(Pages().parse(page_of(LINKS, HERE, depth=2)))
    assert first == Page(url=HERE, title="A  page", status=200, depth=2, links=6, bytes=len(LINKS))


@pytest.mark.parametrize(
    ("arguments", "followed"),
    [
        ({}, ["/a/b", "https://shop.example.com/a/c", "http://u@shop.example.com/a/d"]),
        (
            {"same": "site"},
            [
                "/a/b",
                "http://www.example.com/",
                "http://example.com:8080/",
                "https://shop.example.com/a/c",
                "http://u@shop.example.com/a/d",
            ],
        ),
        ({"same": "prefix"}, ["/a/b"]),
    ],
)
def test_pages_follows_what_is_the_same(arguments: dict[str, str], followed: list[str]) -> None:
    spider = Pages(**arguments)
    spider.start_urls = ["http://shop.example.com/a/index.html?x=/"]
    _, *requests = given_by(spider.parse(page_of(LINKS, HERE)))
    expected = [url if "://" in url else f"http://shop.example.com{url}" for url in followed]
    assert [request.url for request in requests] == expected
    assert all(encode(request, request.url) is None for request in requests)


def test_a_prefix_is_a_directory_of_any_start_url_and_not_of_a_query() -> None:
    spider = Pages(same="prefix")
    spider.start_urls = ["http://a.example/b/c?d=/e/", "http://a.example/f/"]
    inside = ["/b/", "/b/x/y.html", "/b/x/?z=/", "/f/g"]
    outside = ["/", "/b", "/bc/d", "/x?/b/", "http://b.example/b/"]
    links = "".join(f'<a href="{each}">x</a>' for each in outside + inside)
    _, *requests = given_by(spider.parse(page_of(links, "http://a.example/b/c")))
    assert [request.url for request in requests] == [f"http://a.example{each}" for each in inside]


def test_pages_keeps_what_is_no_html_without_title_and_links() -> None:
    page = Response(Request(HERE), HERE, 200, [(b"content-type", b"image/png")], b"<title>x")
    assert given_by(Pages().parse(page)) == [
        Page(url=HERE, title=None, status=200, depth=0, links=0, bytes=8)
    ]


# The bundled spiders ------------------------------------------------------------------

LISTING = """<article class=product_pod><h3><a href="catalogue/a_1/index.html">A</a></h3></article>
<li class=next><a href="catalogue/page-2.html">next</a></li>"""
PRODUCT = """<ul class=breadcrumb><li><a>Home</a><li><a>Books</a><li><a>Poetry</a><li>A</ul>
<div class="product_main"><h1>A Light</h1><p class=price_color>£51.77</p>
<p class="instock availability"> In stock (22 available) </p><p class="star-rating Three"></p>
</div><table class=table-striped><tr><th>UPC</th><td>a897fe39b1053632</td></tr></table>"""


def test_books_goes_from_listings_to_products() -> None:
    spider = Books()
    url = "https://books.toscrape.com/"
    requests = given_by(spider.parse(page_of(LISTING, url)))
    assert [(request.url, request.callback) for request in requests] == [
        (f"{url}catalogue/a_1/index.html", spider.book),
        (f"{url}catalogue/page-2.html", spider.parse),
    ]
    assert spider.book(page_of(PRODUCT, url)) == Book(
        url=url,
        title="A Light",
        price=51.77,
        stock=22,
        stars=3,
        category="Poetry",
        upc="a897fe39b1053632",
    )


def _card(text: str, author: str) -> str:
    return (
        f"<div class=quote><span class=text>“{text}”</span>{author}"
        "<div class=tags><a class=tag>t</a></div></div>"
    )


CARDS = (
    _card("one", "<small class=author>A</small>")
    + _card("broken", "")
    + _card("three", "<small class=author>B</small>")
    + '<li class=next><a href="/page/2/">next</a></li>'
)


def test_a_broken_quote_loses_neither_the_others_nor_the_next_page() -> None:
    spider = Quotes()
    url = "https://quotes.toscrape.com/"
    results = spider.parse(page_of(CARDS, url))
    assert isinstance(results, Iterable)
    kept: list[Any] = []
    with pytest.raises(NoMatch, match="author"):
        kept.extend(results)
    assert kept == [
        Request(f"{url}page/2/", spider.parse),
        Quote(text="one", author="A", tags=["t"], page=url),
        Quote(text="three", author="B", tags=["t"], page=url),
    ]


def test_quotes_can_be_those_of_one_author_or_tag() -> None:
    body = CARDS.replace(_card("broken", ""), "")
    kept = given_by(Quotes(author="B").parse(page_of(body)))
    assert [each.text for each in kept if isinstance(each, Quote)] == ["three"]
    starts = given_by(Quotes(tag="love").start())
    assert [request.url for request in starts] == ["https://quotes.toscrape.com/tag/love/"]
