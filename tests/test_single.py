"""One page at a time through the engine: what is known of it, and what ends a wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Request, Response, Results, Settings, SpiderError
from crawler.errors import FetchError
from crawler.node import watched
from crawler.single import Single, sent_as
from crawler.testing import Reply, Site, dead_address, fail_first
from tests.crawling import Walk

if TYPE_CHECKING:
    from crawler.single import Attempt, Fetched

ROBOTS = Reply.text("User-agent: *\nDisallow: /private")


def fetched(site: Site, *paths: str, spider: Walk | None = None) -> list[Fetched]:
    """What becomes of each path in one session."""

    async def work() -> list[Fetched]:
        async with site, Single(spider or Walk()) as single:
            return [await single.fetch(Request(site.url(path))) for path in paths]

    return asyncio.run(work())


def test_a_page_comes_with_how_it_travelled() -> None:
    site = Site({"/": Reply.html("<p>" + "x" * 2_000).gzip(), "/robots.txt": ROBOTS})
    first, second = fetched(site, "/", "/")
    assert first.page is not None
    assert first.error is None
    robots, own = (each.row for each in first.attempts)
    assert (robots.decision, own.decision) == ("robots", "deliver")
    assert robots.reused is False
    assert robots.connect_s is not None
    assert (own.reused, own.nth, own.peer) == (True, 2, "127.0.0.1")
    assert (own.http_version, own.dns_s, own.tls_s) == ("HTTP/1.1", None, None)
    assert first.attempts[1].outcome.open_connections == 1
    assert 0 < own.bytes_received < 200
    assert own.ttfb_s is not None
    assert 0 < own.ttfb_s <= own.total_s
    assert [each.row.nth for each in second.attempts] == [3]


def test_redirects_are_a_chain_with_their_statuses() -> None:
    site = Site(
        {
            "/a": Reply.redirect("/b", 301),
            "/b": Reply.redirect("/c"),
            "/c": Reply.html("<h1>end"),
            "/loop": Reply.redirect("/loop"),
        }
    )
    end, loop = fetched(site, "/a", "/loop")
    hops = [each.outcome for each in end.attempts if each.row.decision == "redirect"]
    assert [(hop.status, hop.header("location")) for hop in hops] == [(301, "/b"), (302, "/c")]
    assert end.page is not None
    assert end.page.url == site.url("/c")
    assert loop.error is not None
    assert loop.error.code == "redirect-loop"
    assert loop.page is not None
    assert loop.page.status == 302


@pytest.mark.parametrize("status", [404, 500, 204])
def test_an_answer_of_any_status_is_an_answer(status: int) -> None:
    (found,) = fetched(Site({"/": Reply.code(status)}), "/")
    assert found.page is not None
    assert found.page.status == status
    code = found.error.code if found.error is not None else None
    assert code == (None if status == 204 else f"http-{status}")
    tries = 3 if status == 500 else 1
    assert [each.outcome.status for each in found.attempts[1:]] == [status] * tries


def test_what_robots_forbids_is_not_sent() -> None:
    site = Site({"/robots.txt": ROBOTS})
    (found,) = fetched(site, "/private/x")
    assert found.page is None
    assert found.error is not None
    assert found.error.code == "robots"
    assert [each.path for each in site.log] == ["/robots.txt"]


def test_a_robots_txt_that_never_answers_yes_or_no_ends_the_wait() -> None:
    site = Site({"/robots.txt": Reply.code(503), "/": Reply.html("x")})
    (found,) = fetched(site, "/")
    assert found.error is not None
    assert found.error.code == "robots"
    assert "answered 503" in str(found.error)
    assert len(site.log) == 3


def test_a_long_pause_is_told_and_not_waited_for_and_the_next_fetch_works() -> None:
    site = Site({"/": Reply.code(429, {"Retry-After": "3000"}), "/ok": Reply.html("x")})
    refused, after = fetched(site, "/", "/ok")
    assert refused.error is not None
    assert refused.error.code == "http-429"
    assert refused.page is not None
    assert refused.last is not None
    assert refused.last.pause_s is not None
    assert 3_000 <= refused.last.pause_s < 3_100
    assert after.error is None


def test_a_failure_is_tried_again_as_a_crawl_does_and_told_while_it_happens() -> None:
    site = Site({"/": fail_first(2, then=Reply.html("x"))})
    told: list[Attempt] = []

    async def work() -> Fetched:
        async with site, Single(Walk(), told=told.append) as single:
            return await single.fetch(Request(site.url("/")))

    found = asyncio.run(work())
    assert found.error is None
    assert [each.row.decision for each in told] == ["robots", "retry", "retry", "deliver"]
    assert tuple(told) == found.attempts


def test_no_answer_is_the_error_and_a_dead_host_can_be_asked_again() -> None:
    async def work() -> list[Fetched]:
        host, port = dead_address()
        async with Single(Walk()) as single:
            request = Request(f"http://{host}:{port}/")
            return [await single.fetch(request), await single.fetch(request)]

    for found in asyncio.run(work()):
        assert found.page is None
        assert found.error is not None
        assert found.error.code == "connect-refused"
        assert [each.row.error for each in found.attempts] == ["connect-refused"] * 3


def test_what_is_no_url_is_an_error_without_a_request() -> None:
    async def work() -> Fetched:
        async with Single() as single:
            return await single.fetch(Request("nonsense"))

    found = asyncio.run(work())
    assert found.error is not None
    assert (found.error.code, found.page, found.attempts) == ("bad-url", None, ())


def test_a_cancelled_fetch_leaves_nothing_behind() -> None:
    async def work() -> str:
        site = Site({"/": Reply.hang(), "/ok": Reply.html("x")})
        async with site, Single(Walk()) as single:
            hung = asyncio.ensure_future(single.fetch(Request(site.url("/"))))
            await asyncio.to_thread(site.wait_for, 2)
            hung.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hung
            after = await single.fetch(Request(site.url("/ok")))
            assert after.error is None
            return repr(single)

    assert "Session 1 runs" in asyncio.run(work())


def test_a_limit_on_time_is_a_crawls_and_not_of_a_session_kept_open() -> None:
    async def work() -> Fetched:
        settings = Settings(max_time=0.05)
        async with Site({"/": Reply.html("x")}) as site, Single(None, settings) as single:
            await asyncio.sleep(0.1)
            return await single.fetch(Request(site.url("/")))

    assert asyncio.run(work()).error is None


class Hooked(Walk):
    """Every hook of a spider leaves a trace."""

    allowed_domains = ["127.0.0.1"]
    breaks: str = ""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._seen: list[str] = []

    def _saw(self, name: str) -> None:
        self._seen.append(name)
        if name == self.breaks:
            raise ValueError(name)

    def opened(self) -> None:
        self._saw("opened")

    def before_request(self, request: Request) -> Request:
        self._saw("before_request")
        return request.replace(headers={"x-token": "7"})

    def after_response(self, page: Response) -> None:
        self._saw("after_response")

    def on_item(self, item: Any, page: Response) -> Any:
        self._saw("on_item")
        return item

    def closed(self, result: Any) -> None:
        self._saw("closed")

    def parse(self, page: Response) -> Results:
        yield {"title": page.get("h1")}
        yield from page.follow_all("a", self.parse)
        yield page.follow("/", self.parse)


def harvested(spider: Hooked) -> Any:
    async def work() -> Any:
        page = Reply.html(
            "<h1>x</h1><a href=/b>b</a><a href=/b>b</a><a href=http://else.test/>e</a>"
        )
        async with Site({"/": page}) as site, Single(spider) as single:
            found = await single.fetch(Request(site.url("/")))
            assert found.page is not None
            harvest = await single.harvest(found.page, spider.parse, {})
            judged = single.judged(harvest.requests, found.page)
        return harvest, judged, site.log[-1]

    return asyncio.run(work())


def test_a_spiders_hooks_are_called_and_its_links_judged() -> None:
    spider = Hooked()
    harvest, judged, request = harvested(spider)
    assert spider._seen == ["opened", "before_request", "after_response", "on_item", "closed"]
    assert [item.values for item in harvest.items] == [("x",)]
    assert [each.refused for each in judged] == [None, "duplicate", "scope", "duplicate"]
    assert dict(request.headers)["x-token"] == "7"
    assert "start" not in vars(spider)


@pytest.mark.parametrize("hook", ["opened", "before_request", "after_response"])
def test_what_a_hook_raises_reaches_the_person(hook: str) -> None:
    with pytest.raises(SpiderError, match=hook):
        harvested(Hooked(breaks=hook))


def test_what_is_sent_can_be_asked_without_sending() -> None:
    async def work() -> tuple[Request, dict[str, str]]:
        request = Request("http://x.test/", method="POST", json={"a": 1})
        return await sent_as(request, Settings(user_agent="me/1"), Hooked())

    request, headers = asyncio.run(work())
    assert request.headers == {"x-token": "7"}
    assert headers["user-agent"] == "me/1"
    assert headers["content-type"] == "application/json"
    assert headers["x-token"] == "7"


def test_selectors_can_be_watched_and_nobody_is_told_afterwards() -> None:
    asked: list[tuple[str, bool]] = []
    page = Response(Request("http://x.test/"), "http://x.test/", 200, (), b"<html><p><b>x</b></p>")
    with watched(lambda selector, where, is_match: asked.append((selector, is_match))):
        page.css("p")
        page.first("p").get("i", default=None)
        page.getall("b::text")
    page.css("p")
    assert asked == [("p", True), ("p", True), ("i", False), ("b", True)]


def test_an_error_of_the_wire_names_its_url() -> None:
    site = Site({"/": Reply.garbage()})
    (found,) = fetched(site, "/")
    assert isinstance(found.error, FetchError)
    assert found.error.url == site.url("/")
    assert found.error.code == "protocol"
