"""What a spider may ask for, one rule a test: scope, order, bodies, statuses, errors."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from crawler import (
    DomainSettings,
    FetchError,
    Request,
    Response,
    Results,
    Retry,
    Session,
    Settings,
    crawl_sync,
)
from crawler.testing import Received, Reply, Site, dead_address, fail_first
from crawler.urls import canonicalise
from tests.test_crawl import Walk, page, rows, value

if TYPE_CHECKING:
    from pathlib import Path


def test_links_out_of_scope_are_dropped_rows_and_a_start_urls_redirect_widens_it(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"

    class Scoped(Walk):
        allowed_domains: Any = ()

    with Site({"/": page("/a")}, addresses=3).threaded() as site:
        site.add("/", Reply.redirect(site.url("/in", 1)), at=0)
        site.add("/in", page(site.url("/", 2), site.url("/more", 1)), at=1)
        site.add("/more", page(), at=1)
        Scoped.start_urls = [site.url("/", 0)]
        Scoped.allowed_domains = (site.addresses[0],)
        crawl_sync(Scoped, db=db)
        visited = {(entry.number, entry.path) for entry in site.log}
    assert visited - {(0, "/robots.txt"), (1, "/robots.txt")} == {
        (0, "/"),
        (1, "/in"),
        (1, "/more"),
    }
    assert rows(db, "select reason, count(*) from requests where state = 'dropped' group by 1") == [
        ("scope", 1)
    ]
    assert rows(db, "select reason, count from v_drops") == [("scope", 1)]


def test_higher_priority_goes_first_and_not_before_waits(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    class Ordered(Walk):
        settings = Settings(domain=DomainSettings(delay=0, concurrency=1))

        def parse(self, page: Response) -> Results:
            later = Request(page.url + "later", self.leaf, not_before=time.time() + 0.3)
            return [later, *(Request(f"{page.url}{n}", self.leaf, priority=n) for n in range(4))]

        def leaf(self, page: Response) -> None:
            return None

    with Site({"/": page()}, fallback=page()).threaded() as site:
        Ordered.start_urls = [site.url("/")]
        result = crawl_sync(Ordered, db=db)
        paths = [entry.path for entry in site.log]
    assert result.ended_by == "finished"
    assert paths == ["/robots.txt", "/", "/3", "/2", "/1", "/0", "/later"]


def test_a_key_makes_requests_differ_and_revisit_fetches_once_more(tmp_path: Path) -> None:
    class Again(Walk):
        def parse(self, page: Response) -> Results:
            if page.request.key is None and not page.request.revisit:
                yield Request(page.url, self.parse)
                yield Request(page.url, self.parse, key="x")
                yield Request(page.url, self.parse, key="x")
                yield Request(page.url, self.parse, revisit=True)

    with Site({"/": page()}).threaded() as site:
        Again.start_urls = [site.url("/")]
        crawl_sync(Again, db=tmp_path / "x.db")
        assert [entry.path for entry in site.log].count("/") == 3


def test_bodies_are_sent_as_asked_and_a_post_is_not_repeated_after_an_answer(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"
    got: list[tuple[str, str | None, bytes]] = []

    def take(request: Received) -> Reply:
        got.append((request.method, request.header("content-type"), request.body))
        return Reply.code(500)

    class Posts(Walk):
        def start(self) -> Results:
            yield Request(self.url, method="POST", json={"a": 1})
            yield Request(self.url, method="PUT", body=b"raw", headers={"content-type": "x/y"})
            yield Request(self.url, method="POST", data={"k": "v w"}, retry=Retry(attempts=1))

        url: str = ""

    with Site({"/post": take}).threaded() as site:
        crawl_sync(Posts(url=site.url("/post")), db=db)
    assert sorted(got, key=str)[:2] == [
        ("POST", "application/json", b'{"a":1}'),
        ("POST", "application/x-www-form-urlencoded", b"k=v+w"),
    ]
    assert [method for method, _, _ in got].count("PUT") == 3
    assert value(db, "select count(*) from requests where reason = 'http-500'") == 3


def test_statuses_that_were_asked_for_are_delivered(tmp_path: Path) -> None:
    class Wants(Walk):
        statuses = (404,)

        def parse(self, page: Response) -> Results:
            yield {"status": page.status}
            if page.depth == 0:
                yield Request(page.url + "gone", self.parse)
                yield Request(page.url + "odd", self.parse, statuses=(418,))

    with Site({"/": page(), "/odd": Reply.code(418)}).threaded() as site:
        Wants.start_urls = [site.url("/")]
        crawl_sync(Wants, db=tmp_path / "x.db")
    assert rows(tmp_path / "x.db", "select status from items order by 1") == [
        (200,),
        (404,),
        (418,),
    ]


def test_on_error_drop_discards_what_a_failing_callback_gave(tmp_path: Path) -> None:
    class Fails(Walk):
        settings = Settings(domain=DomainSettings(delay=0), on_error="drop")

        def parse(self, page: Response) -> Results:
            yield {"a": 1}
            yield from page.follow_all("a", self.parse)
            raise ValueError("no")

    db = tmp_path / "x.db"
    with Site({"/": page("/x"), "/x": page()}).threaded() as site:
        Fails.start_urls = [site.url("/")]
        result = crawl_sync(Fails, db=db)
    assert (result.stored, result.errors, result.exit_code) == (0, 1, 1)
    assert rows(db, "select state from requests") == [("failed",)]


def test_a_hook_that_raises_fails_its_page_and_not_the_crawl(tmp_path: Path) -> None:
    class Hooked(Walk):
        def before_request(self, request: Request) -> Request:
            if request.url.endswith("/bad"):
                raise KeyError("token")
            return request

    db = tmp_path / "x.db"
    with Site({"/": page("/bad", "/good"), "/good": page()}).threaded() as site:
        Hooked.start_urls = [site.url("/")]
        result = crawl_sync(Hooked, db=db)
    assert (result.ended_by, result.delivered) == ("finished", 2)
    ((message, detail),) = rows(db, "select message, detail from problem")
    assert "before_request" in message
    assert "token" in message
    assert "test_crawl_rules.py" in detail


def test_a_start_that_raises_ends_the_run_with_its_error_and_keeps_what_it_gave(
    tmp_path: Path,
) -> None:
    class Starts(Walk):
        def start(self) -> Results:
            for n in range(700):
                yield Request(f"{self.url}{n}")
            raise RuntimeError("the list is broken")

        url: str = ""

    db = tmp_path / "x.db"
    with Site({}, fallback=page()).threaded() as site:
        result = crawl_sync(Starts(url=site.url("/")), db=db)
    assert (result.ended_by, result.exit_code) == ("error", 1)
    assert "the list is broken" in (result.message or "")
    assert value(db, "select count(*) from requests") >= 500
    assert rows(db, "select state from runs") == [("interrupted",)]


def test_a_fetch_of_a_callback_that_gets_no_answer_raises_its_code(tmp_path: Path) -> None:
    host, port = dead_address()
    caught: list[str] = []

    class Asks(Walk):
        async def parse(self, page: Response) -> Results:
            for url in (f"http://{host}:{port}/", page.url + "private", page.url + "gone"):
                try:
                    await self.fetch(Request(url))
                except FetchError as error:
                    caught.append(error.code)
            return {"url": page.url}

    robots = Reply.text("User-agent: *\nDisallow: /private")
    with Site({"/": page(), "/robots.txt": robots}).threaded() as site:
        Asks.start_urls = [site.url("/")]
        result = crawl_sync(Asks, db=tmp_path / "x.db")
    assert caught == ["connect-refused", "robots", "http-404"]
    assert (result.ended_by, result.stored) == ("finished", 1)


def test_a_throttled_domain_rests_and_its_requests_spend_no_attempt(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    busy = fail_first(3, 429, then=page())
    with Site({"/": busy}).threaded() as site:
        Walk.start_urls = [site.url("/")]
        result = crawl_sync(Walk, db=db)
        Walk.start_urls = ()
    assert (result.delivered, result.exit_code) == (1, 0)
    assert rows(db, "select state, attempts from requests") == [("done", 1)]
    assert value(db, "select count(*) from fetches where status = 429") == 3


def test_robots_txt_that_fails_at_first_delays_its_domain_and_loses_nothing(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"
    robots = fail_first(2, 503, then=Reply.text("User-agent: *\nDisallow: /b"))
    with Site({"/": page("/a", "/b"), "/a": page(), "/robots.txt": robots}).threaded() as site:
        Walk.start_urls = [site.url("/")]
        crawl_sync(Walk, db=db)
        Walk.start_urls = ()
        paths = [entry.path for entry in site.log]
    assert paths == ["/robots.txt", "/robots.txt", "/robots.txt", "/", "/a"]


def test_robots_txt_may_live_on_another_host(tmp_path: Path) -> None:
    with Site({"/": page("/a"), "/a": page()}, addresses=2).threaded() as site:
        site.add("/robots.txt", Reply.redirect(site.url("/rules", 1)), at=0)
        site.add("/rules", Reply.text("User-agent: *\nDisallow: /a"), at=1)
        Walk.start_urls = [site.url("/")]
        crawl_sync(Walk, db=tmp_path / "x.db")
        Walk.start_urls = ()
        paths = [(entry.number, entry.path) for entry in site.log]
    assert paths == [(0, "/robots.txt"), (1, "/rules"), (0, "/")]


def test_a_group_of_hosts_shares_one_queue() -> None:
    async def queue(url: str, group: Any) -> str:
        settings = Settings(domain=DomainSettings(group=group))
        async with await Session.open(None, settings) as session:
            crawl = await session.begin(Walk(), settings=settings)
            return crawl.queue_of(canonicalise(url))

    assert asyncio.run(queue("http://a.shop.co.uk:81/x", "site")) == "shop.co.uk"
    assert asyncio.run(queue("http://a.shop.co.uk:81/x", "host")) == "a.shop.co.uk:81"


def test_statistics_of_a_crawl_are_rows_that_add_up(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    with Site({"/": page("/a", "/gone"), "/a": page("/")}).threaded() as site:
        Walk.start_urls = [site.url("/")]
        crawl_sync(Walk, db=db)
        Walk.start_urls = ()
        peak = site.stats().peak
    (domain,) = rows(db, "select queued, done, failed, requests, new_connections from domains")
    assert domain[:4] == (0, 2, 1, 4)
    assert domain[4] == peak
    assert value(db, "select count(*) from fetches") == 4
    assert json.loads(value(db, "select settings from runs")) == {"domain.delay": 0.0}
