"""Whole crawls: real spiders, sockets and files, from the start URL to the rows."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crawler import (
    DomainSettings,
    PoolSettings,
    Request,
    Response,
    Results,
    Retry,
    Session,
    Settings,
    Spider,
    StopCrawl,
    crawl,
    crawl_sync,
    item,
    stream,
)
from crawler.crawling import run_loop, settings_of
from crawler.demo.shop import Shop
from crawler.pages import Pages
from crawler.testing import Reply, Site, dead_address, fail_first
from tests.pool_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crawler.demo.site import Bookshop

QUICK = Retry(attempts=3, wait=0.02, max_wait=0.05)


@item(key="url")
class Seen:
    url: str
    title: str


class Walk(Spider):
    """Follows every link, as quickly as a test needs it."""

    retry = QUICK
    settings = Settings(domain=DomainSettings(delay=0))

    def parse(self, page: Response) -> Results:
        yield from page.follow_all("a", self.parse)
        yield Seen(url=page.url, title=page.get("title", default="") or "")


def rows(db: Path, sql: str, *parameters: Any) -> list[Any]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql, parameters).fetchall()


def value(db: Path, sql: str, *parameters: Any) -> Any:
    ((found,),) = rows(db, sql, *parameters)
    return found


def page(*links: str, title: str = "page") -> Reply:
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return Reply.html(f"<title>{title}</title>{anchors}")


def walk(start: Iterable[str], db: Path, **settings: Any) -> Any:
    spider = Walk()
    spider.start_urls = list(start)
    return crawl_sync(spider, db=db, settings=Settings(**settings))


def test_the_bookshop_is_crawled_as_its_model_says(bookshop: Bookshop, tmp_path: Path) -> None:
    db, expected = tmp_path / "demo.db", bookshop.expected()
    result = crawl_sync(Shop(site=bookshop.start_url), db=db)
    assert (result.ended_by, result.exit_code) == ("finished", 0)
    states = dict(rows(db, "select coalesce(reason, state), count(*) from requests group by 1"))
    assert states == {
        "done": expected.pages,
        "redirected": expected.redirects,
        "robots": expected.robots,
        "http-404": expected.missing,
        "domain-unreachable": expected.unreachable,
    }
    assert value(db, "select count(*) from book") == expected.books
    assert value(db, "select count(*) from author") == expected.authors
    assert value(db, "select count(*) from fetches where status = 503") == expected.retries


def test_a_page_that_fails_twice_is_done_at_the_third_attempt_and_its_waits_are_rows(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"
    with Site({"/": fail_first(2, 503, then=page())}).threaded() as site:
        walk([site.url("/")], db)
    assert rows(
        db, "select attempt, status, decision from fetches where url = ?", site_url(db)
    ) == [
        (1, 503, "retry"),
        (2, 503, "retry"),
        (3, 200, "deliver"),
    ]
    assert rows(db, "select state, attempts from requests") == [("done", 3)]


def site_url(db: Path) -> Any:
    return value(db, "select url from requests where depth = 0")


def test_a_page_that_always_fails_ends_failed_with_its_last_error(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    with Site({"/": page("/bad"), "/bad": Reply.code(500)}).threaded() as site:
        result = walk([site.url("/")], db)
    assert rows(db, "select state, reason, attempts from requests where url like '%/bad'") == [
        ("failed", "http-500", 3)
    ]
    assert (result.exit_code, result.failed) == (0, 1)
    assert value(db, "select code from v_errors") == "http-500"


def test_fifty_good_hosts_and_ten_dead_ones_end_by_themselves(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    pages = {"/": page("/a", "/b"), "/a": page(), "/b": page()}
    with Site(pages, addresses=60, deaf=range(50, 60)).threaded() as site:
        result = walk([site.url("/", at) for at in range(60)], db)
    assert (result.ended_by, result.exit_code) == ("finished", 0)
    assert value(db, "select count(*) from seen") == 150
    assert rows(db, "select distinct reason from requests where state = 'failed'") == [
        ("domain-unreachable",)
    ]
    assert value(db, "select count(*) from requests where state = 'failed'") == 10


def test_fifty_hosts_share_eight_clients_and_all_get_their_turn_early(tmp_path: Path) -> None:
    db, hosts = tmp_path / "x.db", 50
    pages = {f"/{n}": page(f"/{n + 1}", f"/{n + 2}") for n in range(40)}
    with Site({"/": page("/0"), **pages}, addresses=hosts).threaded() as site:
        asyncio.run(_with_eight_clients(site, db, hosts))
        log = [entry.number for entry in site.log if entry.path != "/robots.txt"]
    assert value(db, "select count(*) from seen") == hosts * 41
    latest_first_page = max(log.index(number) for number in range(hosts))
    assert latest_first_page <= len(log) // 4
    assert value(db, "select evictions from v_runs") >= hosts - 8


async def _with_eight_clients(site: Site, db: Path, hosts: int) -> None:
    spider = Walk()
    spider.start_urls = [site.url("/", at) for at in range(hosts)]
    own = settings_of(spider, Settings(pool=PoolSettings(clients=8)))
    async with await Session.open(db, own) as session:
        await session.crawl(spider, settings=own)
        stats = session.stats()
    assert stats.clients_peak == 8
    assert stats.leases == 0


def test_two_spiders_over_one_host_keep_one_pace_and_one_pool(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    pages = {f"/{n}": page(f"/{n + 1}") for n in range(9)} | {"/9": page()}
    with Site({"/": page("/0"), **pages}).threaded() as site:
        asyncio.run(_two_spiders(site.url("/"), db))
        starts = [entry.at for entry in site.log if entry.path != "/robots.txt"]
        assert site.stats().peak <= 2
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert len(starts) == 22
    assert min(gaps) > 0.01
    assert sum(gaps) > 21 * 0.02 * 0.95  # two paces would need half of that
    assert rows(db, "select _run, count(*) from seen group by 1") == [("one-1", 11), ("two-1", 11)]


async def _two_spiders(url: str, db: Path) -> None:
    class One(Walk):
        start_urls = (url,)

    class Two(Walk):
        start_urls = (url,)

    paced = Settings(domain=DomainSettings(delay=0.02, concurrency=2))
    async with await Session.open(db, paced) as session:
        first, second = await asyncio.gather(
            crawl(One, session=session, settings=paced), crawl(Two, session=session, settings=paced)
        )
    assert first.ended_by == second.ended_by == "finished"


def test_what_a_failing_callback_gave_before_it_raised_is_kept_with_the_error(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"
    cards = "".join(f"<p class=card>{n if n != 3 else 'x'}</p>" for n in range(1, 51))
    pages = {
        f"/{n}": Reply.html(f"{cards if n == 1 else ''}<a href=/{n + 1}>next</a>")
        for n in range(1, 11)
    }

    class Cards(Walk):
        def parse(self, page: Response) -> Results:
            yield from page.follow_all("a", self.parse)
            for card in page.css("p.card"):
                yield {"number": int(card.text)}

    with Site(pages).threaded() as site:
        Cards.start_urls = [site.url("/1")]
        result = crawl_sync(Cards, db=db)
    assert value(db, "select count(*) from requests where state = 'done'") == 9
    assert rows(db, "select number from items") == [(1,), (2,)]
    assert rows(db, "select state, reason from requests where url like '%/1'") == [
        ("failed", "callback")
    ]
    message, detail = rows(db, "select message, detail from problem where code = 'callback'")[0]
    assert "invalid literal for int()" in message
    assert "test_crawl.py" in detail
    assert "/crawler/" not in detail
    assert (result.errors, result.stored) == (1, 2)


@pytest.mark.parametrize(
    ("make_url", "code"),
    [
        (lambda: "http://{}:{}/".format(*dead_address()), "connect-refused"),
        (lambda: f"http://{'x' * 64}.invalid/", "dns"),
        (lambda: "https://{}:{}/".format(*dead_address()), "connect-refused"),
    ],
)
def test_a_start_url_that_cannot_be_reached_is_a_row_with_a_code_and_exit_3(
    make_url: Any, code: str, tmp_path: Path
) -> None:
    db = tmp_path / "x.db"
    result = walk([make_url()], db)
    assert result.exit_code == 3
    assert value(db, "select state from requests") == "failed"
    assert rows(db, "select distinct error from fetches") == [(code,)]


def test_a_certificate_that_nobody_vouches_for_is_a_tls_error(tmp_path: Path) -> None:
    async def start() -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("pool_server.pem"))
        async with Server(tls=context) as server:
            spider = Walk()
            spider.start_urls = [server.url]
            return await crawl(spider, db=db)

    db = tmp_path / "x.db"
    assert asyncio.run(start()).exit_code == 3
    assert rows(db, "select distinct error from fetches") == [("tls",)]


def test_redirects_are_rows_that_lead_to_their_target(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    routes = {
        "/": Reply.redirect("/b", 301),
        "/b": Reply.redirect("/c"),
        "/c": page("/b", "/loop", title="end"),
        "/loop": Reply.redirect("/loop2"),
        "/loop2": Reply.redirect("/loop"),
    }
    with Site(routes).threaded() as site:
        walk([site.url("/")], db)
    found = rows(db, "select url, coalesce(reason, state) from requests")
    assert {"/" + url.rpartition("/")[2]: what for url, what in found} == {
        "/": "redirected",
        "/b": "redirected",
        "/c": "done",
        "/loop": "redirected",
        "/loop2": "redirect-loop",
    }
    assert value(db, "select count(*) from requests where redirect_of is not null") == 3


def test_robots_txt_is_obeyed_and_what_it_forbids_is_a_dropped_row(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    routes = {
        "/robots.txt": Reply.text("User-agent: *\nDisallow: /private/"),
        "/": page("/private/x", "/open"),
        "/open": page(),
        "/private/x": page(),
    }
    with Site(routes).threaded() as site:
        walk([site.url("/")], db)
        paths = [entry.path for entry in site.log]
    assert paths == ["/robots.txt", "/", "/open"]
    assert rows(db, "select state, reason from requests where url like '%private%'") == [
        ("dropped", "robots")
    ]


@pytest.mark.parametrize("limit", [1, 7])
def test_a_limit_of_pages_is_kept_to_the_page(limit: int, tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    pages = {f"/{n}": page(*(f"/{n * 3 + k}" for k in range(1, 4))) for n in range(300)}
    with Site(pages).threaded() as site:
        result = walk([site.url("/0")], db, limit=limit)
    assert (result.delivered, result.ended_by, result.exit_code) == (limit, "limit", 0)
    assert value(db, "select count(*) from seen") == limit


def test_stop_crawl_ends_the_run_and_keeps_the_page(tmp_path: Path) -> None:
    class Stops(Walk):
        def parse(self, page: Response) -> Results:
            yield Seen(url=page.url, title="first")
            raise StopCrawl

    with Site({"/": page("/a"), "/a": page()}).threaded() as site:
        Stops.start_urls = [site.url("/")]
        result = crawl_sync(Stops, db=tmp_path / "x.db")
    assert (result.ended_by, result.stored, result.exit_code) == ("spider", 1, 0)


def test_a_callback_may_fetch_under_the_same_pace_and_robots(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    class Asks(Walk):
        async def parse(self, page: Response) -> Results:
            detail = await self.fetch(Request(page.url + "detail"))
            return {"text": detail.get("title")}

    routes: dict[str, Any] = {"/": page(), "/detail": fail_first(1, 503, then=page(title="more"))}
    with Site(routes).threaded() as site:
        Asks.start_urls = [site.url("/")]
        result = crawl_sync(Asks, db=db)
    assert (result.stored, value(db, "select text from items")) == (1, "more")
    assert value(db, "select count(*) from fetches where request is null") == 3


def test_in_memory_crawls_work_twice_in_one_process_and_keep_their_items() -> None:
    with Site({"/": page("/a", "/b"), "/a": page(), "/b": page()}).threaded() as site:
        Walk.start_urls = [site.url("/")]
        results = [crawl_sync(Walk), crawl_sync(Walk)]
    Walk.start_urls = ()
    assert [len(result.items) for result in results] == [3, 3]
    assert {type(one) for result in results for one in result.items} == {Seen}


def test_a_stream_gives_items_as_they_are_stored_and_stops_when_it_is_left() -> None:
    pages = {f"/{n}": page(f"/{n + 1}") for n in range(50)}

    async def take(url: str, number: int) -> list[Any]:
        spider = Walk()
        spider.start_urls = [url]
        taken: list[Any] = []
        source = stream(spider)
        async for one in source:
            taken.append(one)
            if len(taken) == number:
                break
        await source.aclose()
        return taken

    with Site(pages).threaded() as site:
        some = run_loop(take(site.url("/0"), 5))
        everything = run_loop(take(site.url("/40"), 99))
    assert [one.url.rpartition("/")[2] for one in some] == ["0", "1", "2", "3", "4"]
    assert len(everything) == 10


def test_a_run_that_can_only_wait_ends_as_waiting_and_goes_on_later(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    later = Reply.code(429, {"Retry-After": "3000"})
    with Site({"/": page("/busy", "/ok"), "/busy": later, "/ok": page()}).threaded() as site:
        result = walk([site.url("/")], db, patience=5.0)
    assert (result.ended_by, result.exit_code) == ("waiting", 4)
    assert result.waits_s is not None
    assert 2000 < result.waits_s < 3100
    assert value(db, "select state from runs") == "waiting"
    assert value(db, "select count(*) from requests where state = 'queued'") >= 1


def test_pages_has_one_row_a_page_and_stays_on_its_host(tmp_path: Path) -> None:
    db = tmp_path / "p.db"
    other = "http://127.0.0.9:1/"
    routes = {"/": page("/a#x", "/a", other, "mailto:x@y", title=" Front "), "/a": page("/")}
    with Site(routes).threaded() as site:
        spider = Pages()
        spider.start_urls = [site.url("/")]
        crawl_sync(spider, db=db)
    assert rows(db, "select title, status, depth, links from page order by depth") == [
        ("Front", 200, 0, 2),
        ("page", 200, 1, 1),
    ]


def test_hooks_are_called_in_order_and_may_change_items(tmp_path: Path) -> None:
    calls: list[str] = []

    class Hooked(Walk):
        def opened(self) -> None:
            calls.append("opened")

        def before_request(self, request: Request) -> Request:
            calls.append("before")
            return request.replace(headers={"x-test": "1"})

        def on_item(self, item: Any, page: Response) -> Any:
            return {"changed": item.title}

        def closed(self, result: Any) -> None:
            calls.append(f"closed {result.ended_by}")

    with Site({"/": page(title="t")}).threaded() as site:
        Hooked.start_urls = [site.url("/")]
        crawl_sync(Hooked, db=tmp_path / "x.db")
        assert [e.header("x-test") for e in site.log] == [None, "1"]
    assert calls == ["opened", "before", "closed finished"]
    assert rows(tmp_path / "x.db", "select changed from items") == [("t",)]
