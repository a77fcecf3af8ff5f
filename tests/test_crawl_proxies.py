"""Proxies in whole crawls: turns, health, who sees what, and no password anywhere."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from crawler import (
    DomainSettings,
    Request,
    Response,
    Results,
    Retry,
    RobotsSettings,
    Settings,
    Spider,
    TlsSettings,
    crawl,
)
from crawler.crawling import run_loop
from crawler.testing import Site, dead_address
from tests.crawling import Walk, hello, links, report, rows, value, walker
from tests.pool_server import Server
from tests.proxy_server import HttpProxy, SocksProxy, fields_of
from tests.wire import CA_FILE, good_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from crawler import CrawlResult

NO_ROBOTS = RobotsSettings(obey=False)
CANARY = "c4n4ry-pa55"
SITE = {"/": links("/1", "/2", "/3", "/4"), **{f"/{n}": links() for n in range(1, 5)}}
PATHS = {"/robots.txt", *SITE}


def crawl_through(
    proxies: Sequence[HttpProxy],
    db: Path,
    made: Callable[[Site], dict[str, Any]],
    site: Site | None = None,
    spider: type[Spider] = Walk,
) -> tuple[CrawlResult, Site]:
    """Crawl a site while proxies run beside it; `made(site)` gives the settings, as fields."""

    async def scene() -> CrawlResult:
        async with AsyncExitStack() as stack:
            for proxy in proxies:
                await stack.enter_async_context(proxy)
            await stack.enter_async_context(behind)
            settings = Settings(**made(behind))
            return await crawl(walker([behind.url("/")], spider), db=db, settings=settings)

    behind = site or Site(SITE)
    return run_loop(scene()), behind


def through(*proxies: str) -> DomainSettings:
    return DomainSettings(proxies=proxies)


def paths_of(proxy: HttpProxy) -> set[str]:
    """What it was asked to forward."""
    urls = [head.split(b" ")[1].decode() for head in proxy.heads]
    return {"/" + url.split("/", 3)[3] for url in urls}


def test_two_proxies_take_turns_and_robots_txt_goes_through_them_too(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    proxies = [HttpProxy(), HttpProxy()]
    result, site = crawl_through(
        proxies,
        db,
        lambda _: {"domain": through(*(f"http://me:pw@127.0.0.1:{one.port}" for one in proxies))},
    )
    assert result.delivered == 5
    assert {entry.path for entry in site.log} == PATHS
    assert paths_of(proxies[0]) | paths_of(proxies[1]) == PATHS
    assert [len(proxy.heads) for proxy in proxies] == [3, 3]
    assert rows(db, "select proxy, count(*) from fetches group by 1 order by 1") == sorted(
        (f"http://127.0.0.1:{proxy.port}", 3) for proxy in proxies
    )


def test_a_dead_proxy_rests_and_the_other_one_serves_every_page(tmp_path: Path) -> None:
    db, (host, port) = tmp_path / "x.db", dead_address()
    alive = HttpProxy()
    result, site = crawl_through(
        [alive],
        db,
        lambda _: {"domain": through(f"http://{host}:{port}", f"http://127.0.0.1:{alive.port}")},
    )
    assert (result.delivered, result.failed) == (5, 0)
    assert paths_of(alive) == PATHS == {entry.path for entry in site.log}
    assert rows(db, "select proxy, error from fetches where error is not null") == [
        (f"http://{host}:{port}", "proxy")
    ]


def test_where_the_proxy_is_dead_pages_fail_as_proxy_and_nothing_goes_directly(
    tmp_path: Path,
) -> None:
    class Twice(Walk):
        retry = Retry(attempts=2, wait=0.01)

    db = tmp_path / "x.db"
    dead = ["http://{}:{}".format(*dead_address()) for _ in range(1)]
    result, site = crawl_through(
        [], db, lambda _: {"domain": through(*dead), "robots": NO_ROBOTS}, spider=Twice
    )
    assert site.stats().opened == 0
    assert rows(db, "select state, reason, attempts from requests") == [("failed", "proxy", 2)]
    assert rows(db, "select error, decision from fetches order by id") == [
        ("proxy", "retry"),
        ("proxy", "give-up"),
    ]
    assert {row[0] for row in rows(db, "select proxy from fetches")} == set(dead)
    assert result.exit_code == 3


def test_while_every_proxy_rests_pages_wait_and_nothing_goes_directly(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    dead = ["http://{}:{}".format(*dead_address()) for _ in range(2)]
    result, site = crawl_through(
        [], db, lambda _: {"domain": through(*dead), "robots": NO_ROBOTS, "patience": 0}
    )
    assert site.stats().opened == 0
    assert result.ended_by == "waiting"
    assert rows(db, "select state, attempts from requests") == [("queued", 1)]


def test_without_a_proxy_there_is_no_robots_txt_and_no_page_either(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    dead = "http://{}:{}".format(*dead_address())
    result, site = crawl_through([], db, lambda _: {"domain": through(dead)})
    assert site.stats().opened == 0
    assert (result.exit_code, result.delivered) == (3, 0)
    assert rows(db, "select distinct url like '%/robots.txt', error from fetches") == [(1, "proxy")]


def test_the_proxy_of_a_request_is_stronger_than_the_setting(tmp_path: Path) -> None:
    db, own, other = tmp_path / "x.db", HttpProxy(), HttpProxy()

    class Picky(Walk):
        def parse(self, page: Response) -> Results:
            if page.url.endswith("/"):
                yield Request(page.url + "1", proxy=f"http://me:pw@127.0.0.1:{own.port}")

    crawl_through(
        [own, other],
        db,
        lambda _: {"domain": through(f"http://127.0.0.1:{other.port}")},
        spider=Picky,
    )
    assert (paths_of(own), paths_of(other)) == ({"/1"}, {"/robots.txt", "/"})
    assert rows(db, "select proxy from fetches where url like '%/1'") == [
        (f"http://127.0.0.1:{own.port}",)
    ]


def test_a_socks_proxy_carries_a_crawl_and_resolves_its_names(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    site = Site(SITE)
    proxy = SocksProxy(credentials=(b"me", CANARY.encode()))

    async def scene() -> CrawlResult:
        async with proxy, site:
            port = int(site.addresses[0].rpartition(":")[2])
            proxy.names["shop.test"] = port
            url = f"socks5h://me:{CANARY}@127.0.0.1:{proxy.port}"
            spider = walker([f"http://shop.test:{port}/"])
            return await crawl(spider, db=db, settings=Settings(domain=through(url)))

    assert run_loop(scene()).delivered == 5
    assert {(entry.path, entry.host.partition(":")[0]) for entry in site.log} == {
        (path, "shop.test") for path in PATHS
    }
    assert {one.host for one in proxy.asked} == {"shop.test"}
    assert set(proxy.logins) == {(b"me", CANARY.encode())}
    assert rows(db, "select distinct proxy from fetches") == [
        (f"socks5h://127.0.0.1:{proxy.port}",)
    ]


def files_with(folder: Path, secret: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if secret.encode() in path.read_bytes()]


def test_the_password_of_a_proxy_is_in_no_file_and_in_no_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    db, found = tmp_path / "x.db", []

    class Looks(Walk):
        def closed(self, result: CrawlResult) -> None:
            names = sorted(path.name for path in tmp_path.iterdir())
            found.append((names, files_with(tmp_path, CANARY), repr(result)))

    good, (host, port) = HttpProxy(), dead_address()
    crawl_through(
        [good],
        db,
        lambda _: {
            "domain": through(
                f"http://me:{CANARY}@127.0.0.1:{good.port}", f"http://me:{CANARY}@{host}:{port}"
            )
        },
        spider=Looks,
    )
    ((names, leaks, result),) = found
    assert "x.db-wal" in names
    assert leaks == [] == files_with(tmp_path, CANARY)
    assert CANARY not in caplog.text + result + report(db)
    assert "***@" in value(db, "select settings from runs")
    assert value(db, "select count(*) from fetches where error = 'proxy'") >= 1
    assert fields_of(good.heads[0])[b"proxy-authorization"].startswith(b"Basic ")


def test_the_command_shows_no_password_of_a_proxy(tmp_path: Path) -> None:
    host, port = dead_address()
    with Site(SITE).threaded() as site:
        tmp_path.joinpath("urls").write_text(site.url("/"))
        secret = f"domain.proxies=http://me:{CANARY}@{host}:{port}"
        ran = subprocess.run(
            [sys.executable, "-m", "crawler", "run", "pages", "--urls", "urls", "-s", secret],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert site.stats().opened == 0
    said = ran.stdout + ran.stderr
    assert b"(proxy)" in said
    assert CANARY.encode() not in said
    assert files_with(tmp_path, CANARY) == []
    assert tmp_path.joinpath("pages.db").exists()


def test_a_proxy_that_wants_other_credentials_rests_and_what_it_says_is_no_page(
    tmp_path: Path,
) -> None:
    db, good, strict = tmp_path / "x.db", HttpProxy(), HttpProxy(credentials=b"Basic nobody")
    result, site = crawl_through(
        [strict, good],
        db,
        lambda _: {"domain": through(*(f"http://127.0.0.1:{p.port}" for p in (strict, good)))},
    )
    assert rows(db, "select error from fetches where proxy like ?", f"%:{strict.port}") == [
        ("proxy",)
    ]
    assert {entry.path for entry in site.log} == PATHS
    assert (result.delivered, result.failed) == (5, 0)


def test_a_tunnel_is_no_reason_to_trust_a_certificate(tmp_path: Path) -> None:
    found = []
    for ca_file in (None, CA_FILE):
        db, proxy = tmp_path / f"{bool(ca_file)}.db", HttpProxy()

        async def scene(db: Path, proxy: HttpProxy, ca_file: str | None) -> CrawlResult:
            async with proxy, Server(hello, tls=good_context()) as server:
                own = Settings(
                    domain=through(f"http://me:{CANARY}@127.0.0.1:{proxy.port}"),
                    tls=TlsSettings(ca_file=ca_file),
                )
                return await crawl(walker([server.url]), db=db, settings=own)

        result = run_loop(scene(db, proxy, ca_file))
        assert {head.split(b" ")[0] for head in proxy.heads} == {b"CONNECT"}
        assert CANARY.encode() not in proxy.carried
        found.append((result.delivered, rows(db, "select distinct error from fetches")))
    assert found == [(0, [("tls",)]), (2, [(None,)])]
