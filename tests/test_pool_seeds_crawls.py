"""What urllib3 and requests say of their pools, held against ours: whole crawls.

Each test is named by its row of the table in docs/pools.md (`tests/test_pool_seeds.py`).
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from crawler import (
    DomainSettings,
    FetchError,
    PoolSettings,
    Request,
    Response,
    Results,
    Retry,
    RobotsSettings,
    Settings,
    Spider,
    crawl,
    crawl_sync,
)
from crawler.testing import Reply, Site, fail_first
from tests.proxy_server import HttpProxy, Origin
from tests.test_pool_seeds import play

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = RobotsSettings(obey=False)
AT_ONCE = DomainSettings(delay=0)


class One(Spider):
    """Asks for one page."""

    site: str
    settings = Settings(domain=AT_ONCE, robots=PLAIN)

    def start(self) -> Results:
        yield Request(self.site)

    def parse(self, page: Response) -> Results:
        yield {"title": page.get("h1")}


def test_a_request_has_three_attempts_unless_told_otherwise() -> None:
    for retry, expected in ((Retry(wait=0), (1, 0)), (Retry(attempts=1), (0, 1))):
        with Site({"/": fail_first(2, then=Reply.html("<h1>at last</h1>"))}).threaded() as site:
            spider = One(site=site.url("/"))
            spider.retry = retry
            result = crawl_sync(spider)
        assert (result.delivered, result.failed) == expected


def test_one_client_serves_many_hosts_and_keep_alive_0_reuses_nothing() -> None:
    class Both(Spider):
        sites: list[str]

        def start(self) -> Results:
            yield from (Request(f"{site}{n}") for n in range(5) for site in self.sites)

        def parse(self, page: Response) -> Results:
            yield {"url": page.url}

    for pool in (PoolSettings(clients=1), PoolSettings(keepalive=0)):
        settings = Settings(domain=AT_ONCE, robots=PLAIN, pool=pool)
        with Site(addresses=2, fallback=Reply.html("<h1>hi</h1>")).threaded() as site:
            sites = [site.url("/", 0), site.url("/", 1)]
            assert crawl_sync(Both(sites=sites), settings=settings).delivered == 10
    assert site.stats().opened == 10


def test_attempts_are_set_for_a_spider_and_for_one_request() -> None:
    class Two(Spider):
        site: str
        settings = Settings(domain=AT_ONCE, robots=PLAIN)
        retry = Retry(attempts=1)

        def start(self) -> Results:
            yield Request(f"{self.site}a")
            yield Request(f"{self.site}b", retry=Retry(attempts=3, wait=0))

        def parse(self, page: Response) -> Results:
            yield {"url": page.url}

    with Site(fallback=fail_first(2, then=Reply.html("<h1>hi</h1>"))).threaded() as site:
        result = crawl_sync(Two(site=site.url("/")))
        assert (result.delivered, result.failed) == (1, 1)
        assert sorted(each.path for each in site.log) == ["/a", "/b", "/b", "/b"]


def test_after_the_last_attempt_the_error_is_told_and_every_attempt_is_a_row(
    tmp_path: Path,
) -> None:
    told: list[Exception] = []

    class Broken(One):
        retry = Retry(attempts=2, wait=0)

        def on_error(self, request: Request, error: Exception) -> None:
            told.append(error)

    with Site({"/": Reply.html("<h1>hi</h1>").truncated(3)}).threaded() as site:
        result = crawl_sync(Broken(site=site.url("/")), db=tmp_path / "broken.db")
    assert (result.delivered, result.failed) == (0, 1)
    with sqlite3.connect(tmp_path / "broken.db") as db:
        rows = db.execute("SELECT state, reason, attempts FROM requests").fetchall()
        tries = db.execute("SELECT attempt, error, decision FROM fetches ORDER BY id").fetchall()
    db.close()
    assert [tuple(row)[:2] for row in rows] == [("failed", "truncated")]
    assert [row[:2] for row in tries] == [(1, "truncated"), (2, "truncated")]
    assert [error.code for error in told if isinstance(error, FetchError)] == ["truncated"]


def test_before_a_retry_a_spider_is_told_and_may_change_the_request() -> None:
    class Patient(One):
        retry = Retry(wait=0)
        failed = ""

        def before_retry(self, request: Request, error: Exception, wait_s: float) -> None:
            assert isinstance(error, FetchError)
            self.failed = error.code

        def before_request(self, request: Request) -> Request:
            return request.replace(headers={"x-after": self.failed}) if self.failed else request

    with Site({"/": fail_first(1, then=Reply.html("<h1>hi</h1>"))}).threaded() as site:
        assert crawl_sync(Patient(site=site.url("/"))).delivered == 1
        assert [dict(each.headers).get("x-after") for each in site.log] == [None, "http-503"]


def test_the_numbers_of_a_pool_manager_have_their_settings() -> None:
    settings = Settings(
        pool=PoolSettings(clients=5),
        domain=DomainSettings(concurrency=10, delay=0),
        redirects=2,
        robots=PLAIN,
    )
    pages = {f"/{n}": Reply.redirect(f"/{n - 1}") for n in range(1, 4)}
    with Site({"/0": Reply.html("<h1>there</h1>"), **pages}).threaded() as site:
        for start, delivered in (("/2", 1), ("/3", 0)):
            spider = One(site=site.url(start))
            spider.retry = Retry.from_urllib3(3)
            assert crawl_sync(spider, settings=settings).delivered == delivered


def test_proxies_take_turns_and_one_that_fails_rests() -> None:
    class Three(One):
        retry = Retry(wait=0)

        def start(self) -> Results:
            yield from (Request(f"{self.site}{n}") for n in range(3))

        def parse(self, page: Response) -> Results:
            yield {"text": page.text}

    async def scene() -> None:
        async with Origin() as origin, HttpProxy() as left, HttpProxy() as right:
            async with HttpProxy() as dead:
                ports = (left.port, dead.port, right.port)
            proxies = tuple(f"http://127.0.0.1:{port}" for port in ports)
            settings = Settings(
                domain=DomainSettings(delay=0, concurrency=1, proxies=proxies), robots=PLAIN
            )
            result = await crawl(Three(site=f"http://127.0.0.1:{origin.port}/"), settings=settings)
            assert [item["text"] for item in result.items] == ["ok"] * 3
            assert len(left.heads) + len(right.heads) == len(origin.heads) == 3
            assert left.heads
            assert right.heads

    play(scene)
