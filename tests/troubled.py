"""A crawl in which everything happens that `errors`, `why` and `requeue` tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crawler import (
    DomainSettings,
    Request,
    Response,
    Results,
    Retry,
    Settings,
    Spider,
    crawl_sync,
    item,
)
from crawler.testing import Reply, Site, fail_first

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEAD, ASKING = 1, 2
"""Numbers of addresses: one where nothing listens, one that asks for patience."""
FAR = 4_000_000_000.0

LINKS = (
    *("/gone", "/gone-too", "/boom", "/bare", "/flaky", "/moved", "/back", "/secret", "/list"),
    "http://elsewhere.test/",
)


def troubled_site() -> Site:
    """Open it with `threaded`; its start page is `/`."""
    anchors = "".join(f'<a href="{path}">x</a>' for path in LINKS)
    site = Site(
        {
            "/": Reply.html(anchors),
            "/robots.txt": Reply.text("User-agent: *\nDisallow: /secret\n"),
            "/boom": Reply.html("<p>1</p><p>2</p><p>three</p><p>4</p>"),
            "/bare": Reply.html("<p>no title</p>"),
            "/flaky": fail_first(1, then=Reply.html("<h1>at last</h1>")),
            "/moved": Reply.redirect("/target"),
            "/target": Reply.html("<h1>target</h1>"),
            "/back": Reply.redirect("/"),
            "/slow": Reply.html("slow").slow(0.25),
            "/list": Reply.html("<b>a</b><b>b</b><b>c</b>"),
        },
        addresses=3,
        deaf=(DEAD,),
    )
    site.add("/", Reply.code(429, {"Retry-After": "3000"}), at=ASKING)
    site.add("/robots.txt", Reply.code(404), at=ASKING)
    return site


@item(key="url")
class Seen:
    """A page, by its URL."""

    url: str
    title: str


class Troubled(Spider):
    """Follows everything; some callbacks raise, some requests wait."""

    site: str
    dead: str
    retry = Retry(attempts=2, wait=0.0, max_wait=0.0)
    settings = Settings(domain=DomainSettings(delay=0))

    def start(self) -> Iterator[Request]:
        yield Request(self.site, self.front)

    def front(self, page: Response) -> Results:
        yield from page.follow_all("a", self.page)
        for path in ("", "other"):
            yield Request(self.dead + path, self.page)
        yield Request(page.url + "list", self.page, key="again")

    def page(self, page: Response) -> Results:
        for cell in page.css("b"):
            yield {"word": cell.get("b::text", default=None) or cell.text}
        for cell in page.css("p"):
            yield {"number": int(cell.text)} if "boom" in page.url else None
        yield Seen(url=page.url, title=page.get("h1") if "bare" in page.url else "a page")


class Patient(Spider):
    """Ends while a domain rests, a request waits for an instant, and others for their turn."""

    site: str
    asking: str
    settings = Settings(domain=DomainSettings(delay=0, concurrency=1), max_time=0.15)

    def start(self) -> Iterator[Any]:
        yield Request(self.asking)
        yield Request(self.site + "late", not_before=FAR)
        yield Request(self.site + "slow", priority=1)
        yield Request(self.site + "first")
        yield Request(self.site + "second")

    def parse(self, page: Response) -> None:
        return None


def crawl_troubled(site: Site, db: Path) -> None:
    """The run `troubled-1`, finished."""
    spider = Troubled(site=site.url("/"), dead=site.url("/", DEAD))
    spider.allowed_domains = [site.addresses[0], site.addresses[DEAD]]
    result = crawl_sync(spider, db=db)
    assert result.run == "troubled-1"


def crawl_patient(site: Site, db: Path) -> None:
    """The run `patient-1`, ended with a queue."""
    crawl_sync(Patient, db=db, site=site.url("/"), asking=site.url("/", ASKING))
