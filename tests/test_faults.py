"""What must not stop, hang or poison a crawl: one fault a test, on both kinds of loop."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from tenacity import wait_fixed

from crawler import (
    DomainSettings,
    PoolSettings,
    Request,
    Response,
    Results,
    Retry,
    Session,
    Settings,
    SpiderError,
    StopCrawl,
    UnfinishedSettings,
    crawl,
    crawl_sync,
    item,
    stream,
)
from crawler.crawling import run_loop, settings_of
from crawler.testing import Reply, Site, dead_address, fail_first
from tests.test_crawl import Walk, page, rows, value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crawler.result import CrawlResult

LOOPS = pytest.mark.parametrize("run", [asyncio.run, run_loop], ids=["asyncio", "quickest"])


def start(url: str, db: Path, **settings: Any) -> CrawlResult:
    spider = Walk()
    spider.start_urls = [url]
    return crawl_sync(spider, db=db, settings=Settings(**settings))


@LOOPS
def test_a_domain_that_rests_does_not_hold_up_another(run: Any, tmp_path: Path) -> None:
    chain = {f"/{n}": page(f"/{n + 1}") for n in range(30)} | {"/30": page()}
    busy = fail_first(1, 429, then=page())
    with Site(chain, addresses=2).threaded() as site:
        site.add("/busy", busy, at=1)
        spider = Walk()
        spider.retry = Retry(wait=wait_fixed(1.0))
        spider.start_urls = [site.url("/busy", 1), site.url("/0")]
        result = run(crawl(spider))
        order = [(entry.number, entry.path) for entry in site.log]
    assert (result.delivered, result.ended_by) == (32, "finished")
    rest = [place for place in order if place == (1, "/busy")]
    assert len(rest) == 2
    assert order.index((0, "/30")) < len(order) - 1 - order[::-1].index((1, "/busy"))


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("mailto:x@y", "bad-redirect"),
        ("http://[::1", "bad-redirect"),
        ("http://xn--/", "domain-unreachable"),
        ("/" + "a" * 3000, "http-404"),
    ],
)
def test_a_redirect_to_nowhere_fails_its_page_and_nothing_else(
    location: str, code: str, tmp_path: Path
) -> None:
    db = tmp_path / "x.db"
    routes = {"/": page("/odd", "/fine"), "/odd": Reply.redirect(location), "/fine": page()}
    with Site(routes).threaded() as site:
        result = start(site.url("/"), db)
    assert (result.ended_by, result.delivered) == ("finished", 2)
    assert code in {reason for (reason,) in rows(db, "select reason from requests")}


def test_what_cannot_be_sent_fails_its_request_and_nothing_else(tmp_path: Path) -> None:
    class Odd(Walk):
        def parse(self, page: Response) -> Results:
            yield Request("http://xn--/", self.leaf)
            yield Request(page.url + "ok", self.leaf)

        def leaf(self, page: Response) -> None:
            return None

    db = tmp_path / "x.db"
    with Site({"/": page(), "/ok": page()}).threaded() as site:
        Odd.start_urls = [site.url("/")]
        result = crawl_sync(Odd, db=db)
    assert (result.ended_by, result.delivered) == ("finished", 2)
    assert value(db, "select count(*) from requests where state = 'failed'") == 1


def test_a_dead_proxy_fails_its_requests_and_not_the_domain(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    host, port = dead_address()

    class Proxied(Walk):
        def parse(self, page: Response) -> Results:
            for n in range(6):
                yield Request(f"{page.url}p{n}", self.leaf, proxy=f"http://{host}:{port}")
            for n in range(10):
                yield Request(f"{page.url}d{n}", self.leaf)

        def leaf(self, page: Response) -> None:
            return None

    with Site({}, fallback=page()).threaded() as site:
        Proxied.start_urls = [site.url("/")]
        result = crawl_sync(Proxied, db=db)
    assert (result.delivered, result.failed) == (11, 6)
    assert rows(db, "select distinct reason from requests where state = 'failed'") == [("proxy",)]


def test_one_client_is_enough_for_direct_and_proxied_requests(tmp_path: Path) -> None:
    with Site({}, fallback=page()).threaded() as site, Site({}, fallback=page()).threaded() as hop:

        class Mixed(Walk):
            def parse(self, page: Response) -> Results:
                for n in range(2):
                    yield Request(f"{page.url}p{n}", self.leaf, proxy=hop.url("/"))
                    yield Request(f"{page.url}d{n}", self.leaf)

            def leaf(self, page: Response) -> None:
                return None

        Mixed.start_urls = [site.url("/")]
        one = Settings(pool=PoolSettings(clients=1))
        result = crawl_sync(Mixed, db=tmp_path / "x.db", settings=one)
        assert len(hop.log) == 2
    assert (result.ended_by, result.delivered) == ("finished", 5)


@LOOPS
def test_pages_that_wait_for_a_fetch_do_not_fill_the_house(run: Any) -> None:
    class Asks(Walk):
        async def parse(self, page: Response) -> Results:
            if page.url.endswith("/"):
                return page.follow_all("a", self.parse)
            more = await self.fetch(Request(page.url + "/more"))
            return {"url": more.url}

    routes = {"/": page(*(f"/{n}" for n in range(20)))}
    with Site(routes, fallback=page()).threaded() as site:
        spider = Asks()
        spider.start_urls = [site.url("/")]
        small = Settings(unfinished=UnfinishedSettings(pages=4))
        result = run(crawl(spider, settings=small))
    assert (result.ended_by, result.stored) == ("finished", 20)


def test_a_limit_is_reached_although_a_page_before_it_failed() -> None:
    class Hooked(Walk):
        def before_request(self, request: Request) -> Request:
            if request.url.endswith("/a"):
                raise KeyError("no token")
            return request

    with Site({}, fallback=page()).threaded() as site:
        Hooked.start_urls = [site.url(path) for path in ("/a", "/b", "/c")]
        result = crawl_sync(Hooked, settings=Settings(limit=1))
    assert (result.ended_by, result.delivered, result.errors) == ("limit", 1, 1)


def test_max_time_ends_a_run_whose_start_waits() -> None:
    class Slow(Walk):
        async def start(self) -> AsyncIterator[Request]:
            yield Request(self.url)
            await asyncio.Event().wait()

        url: str = ""

    with Site({}, fallback=page()).threaded() as site:
        result = crawl_sync(Slow(url=site.url("/")), settings=Settings(max_time=0.4))
    assert (result.ended_by, result.delivered) == ("max-time", 1)


def test_an_infinite_start_in_memory_leaves_the_loop_to_others() -> None:
    class Endless(Walk):
        def start(self) -> Results:
            n = 0
            while True:
                n += 1
                yield Request(f"{self.url}{n}")

        url: str = ""

    with Site({}, fallback=page()).threaded() as site:
        result = crawl_sync(Endless(url=site.url("/")), settings=Settings(limit=5))
    assert (result.ended_by, result.delivered) == ("limit", 5)


@LOOPS
def test_a_session_closed_in_the_middle_gives_everything_back(run: Any, tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    pages = {f"/{n}": page(*(f"/{n * 3 + k}" for k in (1, 2, 3))).slow(0.002) for n in range(400)}

    async def close_early(url: str) -> Any:
        spider = Walk()
        spider.start_urls = [url]
        session = await Session.open(db, settings_of(spider))
        running = await session.begin(spider)
        enough = asyncio.Event()

        async def count(_: Any) -> None:
            if running.delivered >= 40:
                enough.set()

        running.sink = count
        await enough.wait()
        await session.aclose()
        return session.stats()

    with Site(pages).threaded() as site:
        stats = run(close_early(site.url("/0")))
        assert (stats.leases, stats.open_connections) == (0, 0)
        assert rows(db, "select state from runs") == [("interrupted",)]
        spider = Walk()
        spider.start_urls = [site.url("/0")]
        run(_go_on(spider, db))
    assert value(db, "select count(*) from seen") == 400


async def _go_on(spider: Walk, db: Path) -> None:
    async with await Session.open(db, settings_of(spider)) as session:
        (row,) = await session.store.runs()
        await session.crawl(spider, settings=settings_of(spider), resume=row)


def test_a_run_that_is_stopped_before_it_begins_ends_at_once() -> None:
    async def stopped(url: str) -> Any:
        spider = Walk()
        spider.start_urls = [url]
        async with await Session.open() as session:
            session.stop()
            return await session.crawl(spider)

    with Site({}, fallback=page()).threaded() as site:
        result = asyncio.run(stopped(site.url("/")))
        assert site.log == []
    assert (result.ended_by, result.exit_code) == ("signal", 130)


def test_a_hook_that_raises_keeps_what_was_fetched_and_given(tmp_path: Path) -> None:
    class Hooked(Walk):
        def on_error(self, request: Request, error: Exception) -> None:
            raise RuntimeError("the alarm is broken")

        def parse(self, page: Response) -> Results:
            yield {"n": 1}
            raise ValueError("first")

    db = tmp_path / "x.db"
    with Site({"/": page()}).threaded() as site:
        Hooked.start_urls = [site.url("/")]
        result = crawl_sync(Hooked, db=db)
    messages = {message for (message,) in rows(db, "select message from problem")}
    assert any("first" in message for message in messages)
    assert any("the alarm is broken" in message for message in messages)
    assert (result.stored, value(db, "select count(*) from fetches where status = 200")) == (1, 1)


def test_a_closed_hook_that_raises_is_told_and_changes_the_exit_code() -> None:
    class Hooked(Walk):
        def closed(self, result: Any) -> None:
            raise OSError("no mail")

    with Site({"/": page()}).threaded() as site:
        Hooked.start_urls = [site.url("/")]
        result = crawl_sync(Hooked)
    assert (result.ended_by, result.exit_code) == ("finished", 1)
    assert "closed" in (result.message or "")
    assert "no mail" in (result.message or "")


@pytest.mark.parametrize("hook", ["opened", "before_request", "after_response"])
def test_stop_crawl_ends_the_run_from_every_hook(hook: str) -> None:
    def stop(*_: Any) -> None:
        raise StopCrawl

    kind = type("Stops", (Walk,), {hook: stop})
    with Site({}, fallback=page()).threaded() as site:
        spider = kind()
        spider.start_urls = [site.url("/"), site.url("/b")]
        result = crawl_sync(spider)
    assert (result.ended_by, result.message) == ("spider", None)


def test_items_that_do_not_fit_their_table_fail_their_page_and_not_the_crawl(
    tmp_path: Path,
) -> None:
    db = tmp_path / "x.db"

    @item(key="url", table="thing")
    class Old:
        url: str
        size: int

    @item(key="url", table="thing")
    class New:
        url: str
        size: str

    class Things(Walk):
        def parse(self, page: Response) -> Results:
            yield self.make(page.url)
            yield from page.follow_all("a", self.parse)

        def make(self, url: str) -> Any:
            return Old(url=url, size=1)

    class Changed(Things):
        def make(self, url: str) -> Any:
            return New(url=url, size="large")

    with Site({"/": page("/a"), "/a": page()}).threaded() as site:
        for kind in (Things, Changed):
            kind.start_urls = [site.url("/")]
            result = crawl_sync(kind, db=db)
    assert (result.ended_by, result.errors, result.delivered) == ("finished", 2, 2)
    assert value(db, "select count(*) from thing") == 2
    assert {code for (code,) in rows(db, "select code from problem")} == {"item-invalid"}


def test_a_redirect_is_followed_again_on_a_revisit() -> None:
    class Polls(Walk):
        def parse(self, page: Response) -> Results:
            if len(page.url) > 3 and self._seen < 3:
                self._seen += 1
                yield Request(self.url, self.parse, revisit=True)
            yield {"n": self._seen}

        _seen = 0
        url: str = ""

    with Site({"/r": Reply.redirect("/t"), "/t": page()}).threaded() as site:
        spider = Polls(url=site.url("/r"))
        spider.start_urls = [spider.url]
        result = crawl_sync(spider)
        paths = [entry.path for entry in site.log]
    assert paths.count("/t") == 4
    assert result.delivered == 4


def test_the_same_form_with_other_fields_is_another_request() -> None:
    class Forms(Walk):
        def start(self) -> Results:
            for word in ("a", "b", "b"):
                yield Request(self.url, data={"q": word})

        url: str = ""

    with Site({}, fallback=page()).threaded() as site:
        result = crawl_sync(Forms(url=site.url("/")))
    assert result.delivered == 2


def test_who_waits_for_a_run_may_leave_without_ending_it_for_others() -> None:
    async def leave(url: str) -> Any:
        spider = Walk()
        spider.start_urls = [url]
        async with await Session.open() as session:
            running = await session.begin(spider)
            waiting = asyncio.ensure_future(session.ended(running))
            await asyncio.sleep(0)
            waiting.cancel()
            return await session.ended(running)

    with Site({}, fallback=page()).threaded() as site:
        result = asyncio.run(leave(site.url("/")))
    assert result.ended_by == "finished"


def test_a_crawl_of_one_domain_at_a_time_keeps_to_its_settings() -> None:
    paced = Settings(domain=DomainSettings(delay=0.05, concurrency=1))
    with Site({"/": page("/a", "/b"), "/a": page(), "/b": page()}).threaded() as site:
        spider = Walk()
        spider.start_urls = [site.url("/")]
        crawl_sync(spider, settings=paced)
        times = [entry.at for entry in site.log]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.03


def test_a_proxys_password_stands_in_no_fetch_row(tmp_path: Path) -> None:
    with Site({}, fallback=page()).threaded() as site, Site({}, fallback=page()).threaded() as hop:
        proxy = hop.url("/").replace("http://", "http://me:hunter2@")

        class Proxied(Walk):
            def start(self) -> Results:
                yield Request(self.url, proxy=proxy)

            url: str = ""

        crawl_sync(Proxied(url=site.url("/")), db=tmp_path / "x.db")
        via = hop.url("/").rstrip("/")
    assert rows(
        tmp_path / "x.db", "select distinct proxy from fetches where proxy is not null"
    ) == [(via,)]


@pytest.mark.parametrize("final", [Reply.code(503), Reply.code(200, {"content-encoding": "gzip"})])
def test_a_robots_txt_that_leads_to_no_verdict_ends_by_itself(final: Reply, tmp_path: Path) -> None:
    routes = {"/robots.txt": Reply.redirect("/rules"), "/rules": final, "/": page()}
    with Site(routes).threaded() as site:
        result = start(
            site.url("/"), tmp_path / "x.db", domain=DomainSettings(give_up=0.3, delay=0)
        )
        asked = [entry.path for entry in site.log].count("/robots.txt")
    assert (result.ended_by, result.exit_code) == ("finished", 3)
    assert asked < 100


@LOOPS
def test_stop_crawl_cuts_a_start_that_waits(run: Any) -> None:
    class Slow(Walk):
        async def start(self) -> AsyncIterator[Request]:
            yield Request(self.url)
            await asyncio.Event().wait()

        def parse(self, page: Response) -> Results:
            raise StopCrawl

        url: str = ""

    with Site({}, fallback=page()).threaded() as site:
        result = run(crawl(Slow(url=site.url("/"))))
    assert (result.ended_by, result.delivered) == ("spider", 1)


def test_a_closed_hook_that_never_ends_is_cut_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.endings.GRACE_S", 0.1)

    class Hooked(Walk):
        async def closed(self, result: Any) -> None:
            await asyncio.Event().wait()

    with Site({"/": page()}).threaded() as site:
        Hooked.start_urls = [site.url("/")]
        result = crawl_sync(Hooked)
    assert (result.ended_by, result.exit_code) == ("finished", 1)
    assert "TimeoutError" in (result.message or "")


def test_a_page_whose_items_the_store_refuses_keeps_its_links(tmp_path: Path) -> None:
    class Wide(Walk):
        def parse(self, page: Response) -> Results:
            yield from page.follow_all("a", self.parse)
            width = 3000 if page.depth == 0 else 1
            yield {f"c{n}": n for n in range(width)}

    db = tmp_path / "x.db"
    with Site({"/": page("/a"), "/a": page()}).threaded() as site:
        Wide.start_urls = [site.url("/")]
        result = crawl_sync(Wide, db=db)
    assert (result.delivered, result.stored, result.errors) == (2, 1, 1)
    assert rows(db, "select state, reason from requests order by id") == [
        ("failed", "store"),
        ("done", None),
    ]


def test_a_stream_raises_what_start_raised() -> None:
    class Broken(Walk):
        def start(self) -> Results:
            raise RuntimeError("no list")

    async def read() -> list[Any]:
        return [one async for one in stream(Broken)]

    with pytest.raises(SpiderError, match="no list"):
        asyncio.run(read())
