"""Proxies that take turns in whole crawls: one client a request, whose fault a failure is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler import (
    DomainSettings,
    PoolSettings,
    Request,
    Response,
    Results,
    RobotsSettings,
    Session,
    Settings,
    StopCrawl,
    TimeoutSettings,
    TlsSettings,
)
from crawler.crawling import run_loop, settings_of
from crawler.testing import Reply, Site
from tests.crawling import Walk, html, links, rows, value, walker
from tests.pool_server import Peer, Server
from tests.proxy_server import HttpProxy, Listener, Scripted, SocksProxy
from tests.wire import CA_FILE, good_context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crawler import CrawlResult, Spider
    from crawler.proxies import ProxyStats

NO_ROBOTS = RobotsSettings(obey=False)
UNUSABLE = "http://a%3Ab:pw@h"
"""Basic credentials have no way to say a colon in the name (RFC 7617 §2)."""
PAGES = 30


class Seen(NamedTuple):
    """How a crawl ended, and what became of the proxies that took turns in it."""

    result: CrawlResult
    proxies: tuple[ProxyStats, ...]


class Slammer(Listener):
    """Hears a request, and closes without a word."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")


def wide_site() -> Site:
    pages = [f"/{n}" for n in range(1, PAGES)]
    return Site({"/": links(*pages), **{page: links() for page in pages}})


def crawl_by(
    proxies: Sequence[Listener],
    db: Path,
    behind: Site | Server,
    *,
    scheme: str = "http",
    spider: type[Spider] = Walk,
    **settings: Any,
) -> Seen:
    """Crawl what is behind proxies that run beside it, all of them in turn."""

    async def scene() -> Seen:
        async with AsyncExitStack() as stack:
            for server in (*proxies, behind):
                await stack.enter_async_context(server)
            urls = [f"{scheme}://127.0.0.1:{proxy.port}" for proxy in proxies]
            filled = {"domain": DomainSettings(proxies=tuple(urls))} | settings
            made = walker([behind.url("/") if isinstance(behind, Site) else behind.url], spider)
            own = settings_of(made, Settings(**filled))
            session = await stack.enter_async_context(await Session.open(db, own))
            result = await session.crawl(made, settings=own)
            return Seen(result, session._access.stats())

    seen: Seen = run_loop(scene())
    return seen


# ── clients ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("count", [0, 2], ids=["direct", "rotation"])
def test_a_proxy_that_cannot_be_used_fails_its_page_and_no_other(
    count: int, clients: int, tmp_path: Path
) -> None:
    class Picky(Walk):
        def parse(self, page: Response) -> Results:
            for link in page.css("a"):
                request = page.follow(link, self.parse)
                yield request.replace(proxy=UNUSABLE) if request.url.endswith("/7") else request

    db, site = tmp_path / "x.db", wide_site()
    pool = PoolSettings(clients=clients)
    result, proxies = crawl_by(
        [HttpProxy() for _ in range(count)], db, site, spider=Picky, pool=pool
    )
    assert rows(db, "select state, reason, attempts from requests where state != 'done'") == [
        ("failed", "bad-request", 1)
    ]
    assert (result.delivered, result.failed, result.exit_code) == (PAGES - 1, 1, 0)
    assert {proxy.failures for proxy in proxies} <= {0}
    assert "/7" not in {entry.path for entry in site.log}
    assert "pw" not in value(db, "select message from v_errors where code = 'bad-request'")


@pytest.mark.parametrize("clients", [1, 2, 256])
def test_turns_cost_no_time_and_no_attempt_whatever_the_number_of_clients(
    clients: int, tmp_path: Path
) -> None:
    db, proxies = tmp_path / "x.db", [HttpProxy(), HttpProxy()]
    result, told = crawl_by(proxies, db, wide_site(), pool=PoolSettings(clients=clients))
    assert (result.delivered, result.failed, result.exit_code) == (PAGES, 0, 0)
    assert result.seconds < 2
    assert rows(db, "select distinct error, decision from fetches order by 2") == [
        (None, "deliver"),
        (None, "robots"),
    ]
    served = [len(proxy.heads) for proxy in proxies]
    assert sum(served) == PAGES + 1
    assert min(served) >= PAGES // 3
    assert [proxy.failures for proxy in told] == [0, 0]
    assert value(db, "select clients_peak from v_runs") <= min(clients, 2)


# ── whose fault ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("kind", [Slammer, Scripted], ids=["closes", "hangs"])
def test_a_proxy_that_forwards_nothing_rests_and_no_page_is_lost(
    kind: type[Listener], place: int, tmp_path: Path
) -> None:
    db, bad, good = tmp_path / "x.db", kind(), HttpProxy()
    proxies: list[Listener] = [good]
    proxies.insert(place, bad)
    site = wide_site()
    result, told = crawl_by(proxies, db, site, timeout=TimeoutSettings(head=0.25))
    assert (result.delivered, result.failed) == (PAGES, 0)
    assert {entry.path for entry in site.log} == {"/robots.txt", "/"} | {
        f"/{n}" for n in range(1, PAGES)
    }
    assert told[place].failures >= 1
    assert told[place].rests_until is not None
    assert told[1 - place].failures == 0
    assert 1 <= bad.connections <= 4
    errors = rows(db, "select proxy, error from fetches where error is not null")
    assert {proxy for proxy, _ in errors} == {f"http://127.0.0.1:{bad.port}"}
    assert len(errors) <= 4


async def cutting(peer: Peer, head: bytes) -> bool:
    """A page that is cut before its first byte, among others that are well."""
    path = head.split(b" ")[1]
    if path == b"/cut":
        peer.reset()
        return False
    body = "".join(f"<a href='/{name}'>x</a>" for name in ("cut", 1, 2, 3, 4, 5, 6))
    await peer.send(html(body if path == b"/" else "x"))
    return True


@pytest.mark.parametrize("way", ["connect", "socks5"])
def test_a_server_that_cuts_a_page_behind_a_tunnel_is_no_fault_of_the_proxy(
    way: str, tmp_path: Path
) -> None:
    db = tmp_path / "x.db"
    is_socks = way == "socks5"
    proxies: list[HttpProxy | SocksProxy]
    proxies = [SocksProxy() if is_socks else HttpProxy() for _ in range(2)]
    result, told = crawl_by(
        proxies,
        db,
        Server(cutting, tls=None if is_socks else good_context()),
        scheme="socks5" if is_socks else "http",
        tls=TlsSettings(ca_file=CA_FILE),
        robots=NO_ROBOTS,
    )
    assert (result.delivered, result.failed) == (7, 1)
    assert rows(db, "select state, attempts from requests where url like '%/cut'") == [
        ("failed", 3)
    ]
    assert rows(db, "select distinct error from fetches where url like '%/cut'") == [("reset",)]
    assert [(proxy.failures, proxy.rests_until) for proxy in told] == [(0, None)] * 2
    assert all(proxy.connections for proxy in proxies)


def test_a_407_of_a_server_behind_socks_is_the_pages_own_status(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    site = Site({"/": links("/strange", "/1", "/2"), "/1": links(), "/2": links()})
    site.add("/strange", Reply.code(407))
    proxies = [SocksProxy(), SocksProxy()]
    result, told = crawl_by(proxies, db, site, scheme="socks5")
    assert (result.delivered, result.failed) == (3, 1)
    assert rows(db, "select reason, attempts from requests where url like '%/strange'") == [
        ("http-407", 1)
    ]
    assert [(proxy.failures, proxy.rests_until) for proxy in told] == [(0, None)] * 2
    assert rows(db, "select status, error from fetches where url like '%/strange'") == [(407, None)]


def test_a_407_through_a_proxy_that_forwards_is_the_proxys(tmp_path: Path) -> None:
    db, site = tmp_path / "x.db", Site({"/": links("/strange", "/1"), "/1": links()})
    site.add("/strange", Reply.code(407))
    result, _ = crawl_by([HttpProxy()], db, site)
    assert (result.delivered, result.failed) == (2, 1)
    assert rows(db, "select reason, attempts from requests where url like '%/strange'") == [
        ("proxy", 3)
    ]


# ── what ends a rest ─────────────────────────────────────────────────────────────────────


class Ahead(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


@pytest.mark.parametrize(("code", "rest_s"), [("local", 10.0), ("bad-request", 10.0), (None, 5.0)])
def test_only_an_answer_ends_the_rest_of_a_proxy_and_its_doubling(
    code: str | None, rest_s: float, tmp_path: Path
) -> None:
    """The first proxy is said to have failed when the request has its client, not before."""
    proxies = [HttpProxy(), HttpProxy()]

    async def scene(loop: Ahead) -> None:
        async with AsyncExitStack() as stack:
            for server in proxies:
                await stack.enter_async_context(server)
            site = await stack.enter_async_context(Site({"/": links()}))
            urls = tuple(f"http://127.0.0.1:{proxy.port}" for proxy in proxies)
            own = Settings(
                domain=DomainSettings(proxies=urls, delay=0),
                robots=NO_ROBOTS,
                timeout=TimeoutSettings(connect=0.05),
            )
            session = await stack.enter_async_context(await Session.open(None, own))
            budget, told = session._clients.budget, []

            class One(Walk):
                async def start(self) -> Results:
                    fields = {"Content-Length": "7"} if code == "bad-request" else None
                    yield Request(site.url("/"), headers=fields)

                def before_request(self, request: Request) -> Request:
                    session._access.heard(urls, urls[0], has_failed=True)
                    return request

                def before_retry(self, request: Request, error: Exception, wait_s: float) -> None:
                    told.append(getattr(error, "code", None))
                    raise StopCrawl

                def on_error(self, request: Request, error: Exception) -> None:
                    told.append(getattr(error, "code", None))

            while code == "local" and budget.try_acquire():
                pass
            await session.crawl(One(), settings=own)
            while code == "local" and budget.stats().open:
                budget.release()
            assert told == [code for _ in range(code is not None)]
            first, second = session._access.stats()
            assert (first.failures, second.uses) == (1, 0)
            assert (first.rests_until is None) == (code is None)
            loop.ahead_s += 5.0
            assert session._access.has_ready(urls)
            failed_at = loop.time()
            session._access.heard(urls, urls[0], has_failed=True)
            rests_until = session._access.stats()[0].rests_until
            assert rests_until is not None
            assert rests_until - failed_at == pytest.approx(rest_s, abs=0.1)

    with asyncio.Runner(loop_factory=Ahead) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Ahead)
        runner.run(scene(loop))
