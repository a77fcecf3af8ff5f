"""The bookshop: a small web of five hosts on loopback, the same for the same seed.

Owns: what is on sale, every page of it, and what a complete crawl must find (`Expected`).
Does not own: sockets (`crawler.testing`), the spider that crawls it (`demo.shop`).

The hosts: the shop; its authors; antiquarian books on a slow host; second-hand books on
one that answers 503 twice before each page; a partner's, on which nothing listens.

Invariants: a page depends on seed and addresses alone; every link leads to a page, to a
redirect, to the one page that is missing, or to the dead host.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final, Self

from crawler.testing import Received, Reply, Site, fail_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Author", "Book", "Bookshop", "Catalogue", "Expected", "catalogue"]

SHOP: Final = 0
AUTHORS: Final = 1
SLOW: Final = 2
FLAKY: Final = 3
DEAD: Final = 4
"""Numbers of the site's addresses."""

DELAY_S: Final = 0.12
FAILURES: Final = 2
PER_PAGE: Final = 10

MISSING: Final = "/book/out-of-print"
PRIVATE: Final = ("/private/account", "/private/basket", "/private/orders")
CHAIN: Final = ("/guest", "/guest/this-month", "/guest/this-week")
PARTNER: Final = ("/", "/book/somewhere-else")
ROBOTS: Final = "# the bookshop\nUser-agent: *\nDisallow: /private/\n"

SHELVES: Final = (
    *("Poetry", "Travel", "History", "Science"),
    *("Mystery", "Cooking", "Gardens", "The Sea"),
)
ADJECTIVES: Final = (
    *("Amber", "Borrowed", "Crooked", "Distant", "Early", "Forgotten", "Gentle"),
    *("Hollow", "Inland", "Junior", "Kindly", "Last", "Mended", "Northern"),
    *("Open", "Patient", "Quiet", "Restless", "Second", "Tidal", "Unsent", "Winter"),
)
NOUNS: Final = (
    *("Almanac", "Bridge", "Cartographer", "Dune", "Engine", "Ferry", "Garden"),
    *("Harbour", "Island", "Journey", "Kitchen", "Lighthouse", "Meadow", "Notebook"),
    *("Orchard", "Postman", "Quarry", "River", "Staircase", "Telescope", "Violin"),
)
GIVEN: Final = (
    *("Ada", "Bruno", "Clara", "Dmitri", "Elif", "Farid", "Grete", "Hana"),
    *("Ivo", "Júlia", "Kofi", "Lena", "Mateo", "Noor", "Olga", "Pavel"),
)
FAMILY: Final = (
    *("Abel", "Brandt", "Costa", "Dvořák", "Ekström", "Fraser", "Grün", "Haddad"),
    *("Ito", "Jansen", "Keller", "Lund", "Moreau", "Novak", "Okafor", "Petrov"),
)
COUNTRIES: Final = (
    *("Austria", "Brazil", "Chile", "Denmark", "Estonia", "France", "Ghana"),
    *("Hungary", "Iceland", "Japan"),
)
PHRASES: Final = (
    "A slow evening by the water changes more than anybody planned",
    "Nobody in town remembers who built the clock, or why it runs backwards",
    "The map was right & the coast was wrong",
    "Seven letters arrive, each one older than the last",
    "What began as an inventory of spoons became a history of the valley",
    "The narrator is not sure of the year, but quite sure of the weather",
    "There are recipes in it, and two of them work",
    "It ends where it began, one room further up",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """A person on the authors' host."""

    name: str
    country: str
    born: int

    @property
    def path(self) -> str:
        """Where the author's page is."""
        return f"/author/{_slug(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Something on sale. `price` in pence; `stock` 0: sold out; `stars` 1 to 5."""

    title: str
    author: Author
    shelf: str
    price: int
    stock: int
    stars: int
    blurb: str
    host: int

    @property
    def path(self) -> str:
        """Where the book's page is, on its host."""
        return f"/book/{_slug(self.title)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that is on sale, all who wrote it, and the guest whom only a redirect finds."""

    books: tuple[Book, ...]
    authors: tuple[Author, ...]
    guest: Author

    def on(self, host: int, shelf: str | None = None) -> list[Book]:
        """The books of a host, or of one of its shelves."""
        return [b for b in self.books if b.host == host and shelf in (None, b.shelf)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a complete crawl from the front page finds; URLs are distinct ones.

    `pages`: answered with 200 in the end, robots.txt not counted; `pages_by_host` by the
    number of the address. `retries`: answers of 503 on the way. `robots`: refused by
    robots.txt. `unreachable`: on the dead host. `requests`: all of these together.
    """

    books: int
    authors: int
    pages: int
    pages_by_host: tuple[int, ...]
    redirects: int
    retries: int
    missing: int
    robots: int
    unreachable: int

    @property
    def requests(self) -> int:
        """Rows of the crawl, whatever became of them."""
        return self.pages + self.redirects + self.missing + self.robots + self.unreachable


def catalogue(seed: int = 1, books: int = 120) -> Catalogue:
    """The model: `books` in the shop (at most 440), 10 on the slow and 6 on the flaky host."""
    rng = random.Random(seed)
    names = rng.sample([f"{given} {family}" for given in GIVEN for family in FAMILY], 31)
    people = [
        Author(name=name, country=rng.choice(COUNTRIES), born=rng.randint(1870, 1999))
        for name in names
    ]
    guest, *authors = people
    total = books + 16
    titles = rng.sample([f"The {a} {noun}" for a in ADJECTIVES for noun in NOUNS], total)
    hosts = [SHOP] * books + [SLOW] * 10 + [FLAKY] * 6
    return Catalogue(
        books=tuple(
            Book(
                title=title,
                author=authors[n % len(authors)],
                shelf=SHELVES[n % len(SHELVES)],
                price=rng.randint(299, 4999),
                stock=rng.choice((0, 1, 3, 7, 12, 20)),
                stars=rng.randint(1, 5),
                blurb=". ".join(rng.sample(PHRASES, 4)) + ".",
                host=host,
            )
            for n, (title, host) in enumerate(zip(titles, hosts, strict=True))
        ),
        authors=tuple(authors),
        guest=guest,
    )


class Bookshop(Site):
    """The whole site; open it like any Site and crawl from `start_url`.

    `pages` maps (number of the address, path) to what is served there in the end, once
    the site is open.
    """

    def __init__(self, seed: int = 1, books: int = 120, *, port: int = 0) -> None:
        super().__init__(addresses=5, port=port, deaf=(DEAD,), fallback=self._answer)
        self.catalogue = catalogue(seed, books)
        self.pages: Mapping[tuple[int, str], Reply] = {}
        self._failing = fail_first(FAILURES, then=self._page)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.pages = dict(self._build())
        return self

    @property
    def start_url(self) -> str:
        """The front page of the shop; the site must be open."""
        return self.url("/", SHOP)

    def expected(self) -> Expected:
        """What a complete crawl finds."""
        by_host = tuple(len(list(self._paths(host))) for host in range(5))
        return Expected(
            books=len(self.catalogue.books),
            authors=len(self.catalogue.authors) + 1,
            pages=sum(by_host),
            pages_by_host=by_host,
            redirects=len(CHAIN),
            retries=FAILURES * by_host[FLAKY],
            missing=1,
            robots=len(PRIVATE),
            unreachable=len(PARTNER),
        )

    def _answer(self, request: Received) -> Reply:
        if request.number == SLOW:
            return self._page(request).slow(DELAY_S)
        if request.number == FLAKY and request.path != "/robots.txt":
            reply = self._failing(request)
            assert isinstance(reply, Reply)
            return reply
        return self._page(request)

    def _page(self, request: Received) -> Reply:
        page = self.pages.get((request.number, request.path))
        return page if page is not None else _document("Not here", "<h1>Not here</h1>", 404)

    def _paths(self, host: int) -> Iterable[str]:
        """The pages of a host that a crawl may see."""
        if host != DEAD:
            yield "/"
        yield from (book.path for book in self.catalogue.on(host))
        if host == SHOP:
            yield from (path for shelf in SHELVES for path, _ in self._listing(shelf))
        if host == AUTHORS:
            yield from (author.path for author in self.catalogue.authors)
            yield self.catalogue.guest.path

    # ── pages ────────────────────────────────────────────────────────────────────────

    def _build(self) -> Iterable[tuple[tuple[int, str], Reply]]:
        yield (SHOP, "/"), self._front()
        yield (SHOP, "/robots.txt"), Reply.text(ROBOTS)
        yield (SHOP, MISSING), _document("Out of print", "<h1>Out of print</h1>", 404)
        for path in PRIVATE:
            yield (SHOP, path), _document("Private", "<h1>Nothing for crawlers</h1>")
        targets = (*CHAIN[1:], self.url(self.catalogue.guest.path, AUTHORS))
        for path, target in zip(CHAIN, targets, strict=True):
            yield (SHOP, path), Reply.redirect(target)
        for shelf in SHELVES:
            yield from (((SHOP, path), page) for path, page in self._listing(shelf))
        yield (AUTHORS, "/"), self._people()
        for author in (*self.catalogue.authors, self.catalogue.guest):
            yield (AUTHORS, author.path), self._author(author)
        for host, title in ((SLOW, "Antiquarian"), (FLAKY, "Second hand")):
            yield (host, "/"), _document(title, self._cards(self.catalogue.on(host)))
        for number, book in enumerate(self.catalogue.books):
            page = self._book(book)
            yield (book.host, book.path), page.gzip() if number % 2 else page

    def _front(self) -> Reply:
        shelves = "".join(_entry(_shelf_path(shelf, 1), shelf) for shelf in SHELVES)
        houses = ((AUTHORS, "Authors"), (SLOW, "Antiquarian"), (FLAKY, "Second hand"))
        other = "".join(_entry(self.url("/", host), title) for host, title in houses)
        partner = "".join(_entry(self.url(path, DEAD), "Our partner") for path in PARTNER)
        private = "".join(_entry(path, path.rpartition("/")[2]) for path in PRIVATE)
        return _document(
            "The Bookshop",
            f'<h1>The Bookshop</h1><nav class="shelves"><ul>{shelves}</ul></nav>'
            f'<nav class="houses"><ul>{other}{partner}</ul></nav>'
            f'<nav class="account"><ul>{private}</ul></nav>'
            f'<ul class="notices">{_entry(CHAIN[0], "Our guest this week")}'
            f"{_entry(MISSING, 'A book that is out of print')}</ul>",
        )

    def _listing(self, shelf: str) -> Iterable[tuple[str, Reply]]:
        """The pages of a shelf, each but the last with a link to the next."""
        books = self.catalogue.on(SHOP, shelf)
        last = max(1, -(-len(books) // PER_PAGE))
        for number in range(1, last + 1):
            body = self._cards(books[(number - 1) * PER_PAGE : number * PER_PAGE])
            if number < last:
                following = _shelf_path(shelf, number + 1)
                body += f'<p class="next"><a rel="next" href="{following}">next</a></p>'
            yield _shelf_path(shelf, number), _document(f"{shelf}, page {number}", body)

    def _cards(self, books: Iterable[Book]) -> str:
        cards = "".join(
            f'<li class="card"><h2><a href="{book.path}">{escape(book.title)}</a></h2>'
            f'<p class="price">{_pounds(book.price)}</p></li>'
            for book in books
        )
        return f'<ol class="books">{cards}</ol>'

    def _book(self, book: Book) -> Reply:
        author = self.url(book.author.path, AUTHORS)
        stock = f"In stock: {book.stock}" if book.stock else "Sold out"
        shelf = self.url(_shelf_path(book.shelf, 1), SHOP)
        return _document(
            book.title,
            f'<p class="shelf"><a href="{shelf}">{book.shelf}</a></p>'
            f'<article class="book"><h1>{escape(book.title)}</h1>'
            f'<p class="by">by <a href="{author}">{escape(book.author.name)}</a></p>'
            f'<p class="price">{_pounds(book.price)}</p>'
            f'<p class="stock" data-count="{book.stock}">{stock}</p>'
            f'<p class="rating" data-stars="{book.stars}">{"★" * book.stars}</p>'
            f'<p class="blurb">{escape(book.blurb)}</p></article>',
        )

    def _people(self) -> Reply:
        entries = "".join(_entry(a.path, a.name) for a in self.catalogue.authors)
        return _document("Authors", f'<h1>Authors</h1><ul class="authors">{entries}</ul>')

    def _author(self, author: Author) -> Reply:
        books = (book for book in self.catalogue.books if book.author == author)
        entries = "".join(_entry(self.url(b.path, b.host), b.title) for b in books)
        return _document(
            author.name,
            f'<article class="author"><h1>{escape(author.name)}</h1>'
            f'<p class="country">{author.country}</p><p class="born">{author.born}</p>'
            f'<ul class="books">{entries}</ul></article>',
        )


def _document(title: str, body: str, status: int = 200) -> Reply:
    text = (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head>\n<body>\n"
        f'<header><a href="/">home</a></header>\n<main>{body}</main>\n'
        "<footer>Everything here is made up.</footer>\n</body>\n</html>\n"
    )
    return Reply.html(text, status)


def _entry(url: str, text: str) -> str:
    return f'<li><a href="{url}">{escape(text)}</a></li>'


def _shelf_path(shelf: str, page: int) -> str:
    path = f"/shelf/{_slug(shelf)}/"
    return path if page == 1 else f"{path}page-{page}"


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return plain.replace(" ", "-")


def _pounds(pence: int) -> str:
    return f"£{pence // 100}.{pence % 100:02}"
